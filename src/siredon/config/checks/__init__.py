"""Rules across keys, one file per topic.  Each file defines `RULES`, a tuple of `Rule`."""
