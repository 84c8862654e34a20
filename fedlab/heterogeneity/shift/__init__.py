"""Realised heterogeneity: how far sites are apart on each axis, against what chance gives."""
