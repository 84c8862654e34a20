"""Foundations: weights as flat vectors, memory, registries of names, random streams, warnings."""
