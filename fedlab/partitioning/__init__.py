"""Partition cases into sites: allocation of whole patients, splits, held-out sites, explicit sites, dose response."""
