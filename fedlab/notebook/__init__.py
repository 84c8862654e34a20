"""Support for notebooks: the parameters cell and live output."""

from fedlab.notebook.live import Live, Screen
from fedlab.notebook.parameter_cell import parameters

__all__ = ["Live", "Screen", "parameters"]
