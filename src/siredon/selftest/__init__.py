"""The proof table: what must hold of training, tried out on the machine at hand.

`rows/` holds one claim a file.  A row asks the `Rig` for trials, which are small runs through the same stages as
`siredon train` (`trial.py`), in this process or in several (`ranks.py`), and holds them against the slow truth in
fp64 (`truth.py`).  `table.py` runs the rows, `show.py` shows what came out.
"""
