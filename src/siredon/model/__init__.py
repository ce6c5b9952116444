"""A name -> a module ready to train.

build.py       the whole stage, in order
locate.py      a name -> a local folder, or a hub id
tokenizer.py   tokenizer, with its special and added tokens
renaming.py    reserved tokens under new names
precision.py   number formats, decided by config and hardware
load.py        config and weights -> model
model_config.py  the model's own config, with the changes of the YAML
weights.py     whether all weights are there; GGUF files
placement.py   where weights are laid while they are read
embeddings.py  rows of embeddings and head as the tokenizer has ids
new_tokens.py  tokens that nobody has trained
adapt.py       what is trained, and what is recomputed
quiet.py       keeps the chatter of libraries off the screen
adapters/      what is trained beside frozen weights, one file per `adapter:`
"""
