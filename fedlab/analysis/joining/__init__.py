"""Should a site join? The verdict of each site, calibration and prediction sets at sites, and what each site adds."""
