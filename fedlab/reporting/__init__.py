"""A report of runs: one HTML file that opens without a network and says what was compared and found."""
