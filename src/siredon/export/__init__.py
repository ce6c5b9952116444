"""Checkpoint -> artifact.

merge.py   an adapter into its base: a normal model folder
"""
