"""Training methods, one file each.  Each defines `METHOD`; those over judged rows also `TRAINER`, which validates."""
