"""Lenses over a whole run, one a file: they read the record and see no model (`RunLens` in `attnscope.lenses`)."""
