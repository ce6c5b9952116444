"""Siredon: one YAML file drives the whole life of a fine-tuned language model.

Start at `pipeline.py`: one function per verb, each a numbered list of stages.
"""

__version__ = "0.1.0"
