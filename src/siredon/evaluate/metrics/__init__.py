"""Scores of what a model wrote: `METRIC` takes answers and references, in order, and gives numbers by name."""
