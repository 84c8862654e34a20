"""Realised shift: divergences between sites on each axis, with permutation nulls and confidence intervals."""
