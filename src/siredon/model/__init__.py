"""A name -> a module ready to train.

locate.py      a name -> a local folder, or a hub id
tokenizer.py   tokenizer, with its special tokens
precision.py   number formats, decided by config and hardware
load.py        config and weights -> model
adapters/      what is trained beside frozen weights, one file per `adapter:`
"""
