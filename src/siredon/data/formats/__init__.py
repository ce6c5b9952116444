"""Formats of rows, one file each; the file name is the word in `type:`.  Each defines `FORMAT`."""
