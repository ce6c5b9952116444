"""Formats of `siredon export`, one file each."""
