"""Formats of rows, one file each; the file name is the word in `type:`.

Each defines `FORMAT`: a `Format`, or a function that makes one for an entry of `datasets`.
"""
