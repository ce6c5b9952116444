"""Adapters, one file each; the file name is the word in `adapter:`.  Each defines `ADAPTER`."""
