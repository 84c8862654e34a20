"""Assigning cases to sites: quotas, whole patients, splits, held-out sites, and the partition they make."""
