"""The ways in which sites differ, one module per axis.

Assignment axes (quantity, prevalence, presentation, population) decide which case goes to which site; acquisition
decides how a site renders it, annotation how a site labels it; geography decides which sites resemble each other.
`axes.AXES` lists them; `shift` measures what was realised.
"""
