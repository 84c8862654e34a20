"""An experiment, how it is run, and the folder that it leaves."""
