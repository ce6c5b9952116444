"""Optimizers, one file for each word of `optimizer:`.  Each defines `OPTIMIZER`: parameter groups -> optimizer."""
