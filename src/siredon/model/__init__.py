"""A name -> a module ready to train.

build.py       the whole stage, in order
locate.py      a name -> a local folder, or a hub id
tokenizer.py   tokenizer, with its special and added tokens
renaming.py    reserved tokens under new names
precision.py   number formats, decided by config and hardware
float8.py      products in 8-bit floats
load.py        config and weights -> model
quantized.py   weights in few bits: read, trained beside, widened
quantizers/    how frozen weights come to few bits, one file per key
rounding.py    weights that are rounded as they are used, in training
adapt.py       the adapter
freezing.py    which weights are trained where no adapter says so
spectrum.py    which matrices are worth training, by their singular values
relora.py      an adapter merged into its base, and begun anew
noise.py       noise on the embeddings while training
model_config.py  the model's own config, with the changes of the YAML
weights.py     whether all weights are there; GGUF files
placement.py   where weights are laid while they are read
embeddings.py  rows of embeddings and head as the tokenizer has ids
new_tokens.py  tokens that nobody has trained
quiet.py       keeps the chatter of libraries off the screen
adapters/      what is trained beside frozen weights, one file per `adapter:`
"""
