"""Formats of rows with one answer, and whether it is good; a file is a word of `datasets.type`."""
