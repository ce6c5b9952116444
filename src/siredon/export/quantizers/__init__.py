"""Methods of `siredon quantize`, one file each: the format of weights, then that of inputs if they are rounded too."""
