"""`--sweep-search`: how trials are chosen, one file per word."""
