"""Ranks: how many processes a run has."""
