"""Mistakes planted on purpose, each with its truth, and what a diagnosis says about them.

A mistake in code is an edit of a model's own source, as a person would have made it: a copy of the file with one
line changed is imported and trained. The truth is the edited line and the sites it spoils. Mistakes in
parameters, optimiser and data come from `attnscope.faults` or are done by hand here.
"""
