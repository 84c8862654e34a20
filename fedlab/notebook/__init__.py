"""What notebooks need: their parameters cell, and live output."""
