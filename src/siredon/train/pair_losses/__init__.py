<<<<<<< HEAD
"""A shelf: losses over pairs of answers.  A file is a word in `dpo_loss_type:`; `LOSS` is its part."""
=======
"""Losses over pairs of answers: one file per word in `dpo_loss_type:`."""
>>>>>>> main
