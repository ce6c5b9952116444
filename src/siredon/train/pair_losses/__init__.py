"""Losses over pairs of answers: one file per word in `dpo_loss_type:`."""
