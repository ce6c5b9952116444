"""argv -> Config -> one pipeline verb -> exit status.  One file per command, no logic."""
