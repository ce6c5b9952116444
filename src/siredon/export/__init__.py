"""Checkpoint -> artifact.

merge.py        an adapter into its base: a normal model folder
merge_base.py   the base that it is merged into
consolidate.py  a checkpoint in the pieces of many ranks, as a model folder; dcp.py: such a checkpoint
quantize.py     the same in few bits, by a part of quantizers/, held against the whole model
folder.py       folders that are whole or not there; file.py: files
card.py         README.md of an artifact, out of card_facts.py by card_text.py; origin.py: what it was made of
push.py         an artifact sent to a repository of the hub (hub.py); contents.py: its files
uploads.py      the same while a run trains
wanted.py       what `siredon export` is asked; source.py: the model that is exported
formats/        what it is written as: gguf.py ollama.py safetensors.py onnx.py
gguf_*.py       a GGUF file written and read back; llama_cpp.py: read by llama.cpp itself
go_template.py  chat templates as Ollama has them, in a modelfile.py
shards.py       folders of safetensors
round_trip.py   is what was read back the same model?
"""
