"""Import your own images: a folder, and a table or folders named after classes, become a dataset folder.

`plan` finds the cases, `convert` reads one, `work` converts many, `assemble` makes table and card, `look` draws some.
"""
