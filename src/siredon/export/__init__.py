"""Checkpoint -> artifact.

merge.py        an adapter into its base: a normal model folder
merge_base.py   the base that it is merged into
"""
