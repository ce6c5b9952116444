"""One claim a file; the file name is the word that `siredon selftest` takes."""
