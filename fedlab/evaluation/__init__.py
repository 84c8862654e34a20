"""Scores and predictions on the cases of each site, and the choice of the best round."""
