"""Ranks: which process this is, and what the others must wait for."""
