"""Experiments: their description, the runner, and the run folder."""
