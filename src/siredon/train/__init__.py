"""Model and batches -> checkpoints.

arguments.py   config -> `TrainingArguments` of transformers
losses.py      logits and labels -> summed loss
trainer.py     `Trainer` of transformers with an exact loss, validation and token counts
methods/       what is trained how, one file per method
optimize.py    config and model -> the optimizer
optimizers/    one file per word; what several share is in optimizer_families.py, hybrid.py, low_rank.py, apollo.py
parameter_groups.py  learning rate and weight decay of every parameter
in_backward.py updates during the backward pass
grokfast.py    gradients amplified
equip.py       what every method's trainer gets
callbacks/     metrics.jsonl, progress, first checkpoint
isolation.py   tries out that packed documents do not see each other
checkpoint.py  finds the checkpoint to go on from, if it is one of this run
output.py      sets an earlier run aside
run.py         the end of a run: weights, plot, record
record.py      run.json: everything that made this run
plot.py        metrics.jsonl -> loss.png
"""
