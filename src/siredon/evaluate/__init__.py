"""A model -> numbers.

wanted.py      what is asked
candidates.py  the models that are judged: base, tuned, or one after the other
rows.py        the rows that they are judged on, as training prepares them
loss.py        summed losses and counted targets, by data set
answers.py     prompts of rows -> what the model writes
metrics/       answers and references -> scores, one file each
score.py       all of it put together
report.py plot.py  the results as a table, files and a picture
benchmarks.py tasks.py  tasks of lm-evaluation-harness
agreement.py   how far two models are apart in what they say next; speed.py: how fast one is
"""
