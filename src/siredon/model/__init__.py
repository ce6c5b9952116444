"""A name -> a module ready to train.

build.py       the whole stage, in order
locate.py      a name -> a local folder, or a hub id
tokenizer.py   tokenizer, with its special tokens
precision.py   number formats, decided by config and hardware
load.py        config and weights -> model
adapt.py       what is trained, and what is recomputed
quiet.py       keeps the chatter of libraries off the screen
adapters/      what is trained beside frozen weights, one file per `adapter:`
"""
