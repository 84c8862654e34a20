"""The acquisition axis: a scanner per site, drawn once, applied to all of its images."""
