"""Model and batches -> checkpoints.

arguments.py   config -> `TrainingArguments` of transformers
losses.py      logits and labels -> summed loss
trainer.py     `Trainer` of transformers with an exact loss, validation and token counts
methods/       what is trained how, one file per method
callbacks/     metrics.jsonl, progress, first checkpoint
checkpoint.py  finds the checkpoint to go on from
record.py      run.json: everything that made this run
plot.py        metrics.jsonl -> loss.png
"""
