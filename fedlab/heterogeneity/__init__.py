"""The axes on which sites differ, one module or package each.

Assignment axes (quantity, prevalence, presentation, population) decide which cases a site has; acquisition decides how
its scanner renders them, annotation how its readers label them; geography makes sites of a region similar. `axes.AXES`
lists them all, `shift` measures what a partition realises.
"""
