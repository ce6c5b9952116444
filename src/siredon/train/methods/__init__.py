"""Training methods, one file each.  Each defines `METHOD`."""
