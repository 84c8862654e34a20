"""Studies: many experiments planned, run, resumed and put in one table."""
