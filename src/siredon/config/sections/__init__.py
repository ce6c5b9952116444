"""The keys.  One file per section, one line per key, no section over 40 keys."""
