"""The learning rate over the run, one file per word of `lr_scheduler`."""
