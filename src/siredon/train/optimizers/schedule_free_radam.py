"""`optimizer: schedule_free_radam`: RAdam of schedulefree, which averages weights in place of a schedule."""

from siredon.train.optimizer_families import make_schedule_free

OPTIMIZER = make_schedule_free("RAdamScheduleFree")
