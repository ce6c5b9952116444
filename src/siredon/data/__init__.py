"""Rows -> batches.

types.py      the nouns, one frozen type each
load.py       sources -> rows
columns.py    columns of a row, read with an error that names them
formats/      a row -> `Conversation` or `Text`, one file per `type:`
templates/    chat templates, one file per name
render.py     a conversation -> spans: which characters are learned
tokenize.py   spans -> `Sample`: ids and labels, by offsets
audit.py      what was dropped and what is learned, counted; stops a run that would learn nothing
table.py      samples by the million, in flat arrays
cache.py      prepared samples on disk, under a key of everything that made them
pack.py       samples -> packs, best fit
collate.py    packs -> `Batch`: padded tensors, positions that restart
prepare.py    all of the above in order
prompt.py     a prompt as the model was taught to read it, for `inference`
"""
