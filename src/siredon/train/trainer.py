"""`Trainer` of transformers with a loss that is exact.

The loss of an optimizer step is the sum over its target tokens divided by their number, whatever the
accumulation and the number of ranks; the validation loss likewise over the whole validation set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers.trainer_utils import EvalLoopOutput, set_seed

from siredon.data.collate import MixedDataset
from siredon.data.types import IGNORE, Batch
from siredon.model.attend import NAME as FAST_ATTENTION
from siredon.model.attend import measure_ahead
from siredon.model.noise import EmbeddingNoise
from siredon.model.relora import RELORA, read_base_
from siredon.train.chance import random_numbers_of
from siredon.train.chunked_loss import ChunkedLoss
from siredon.train.guarded import GuardedTrainer
from siredon.train.learning_rate import ScheduleBuilder, show_skipped_steps_
from siredon.train.losses import cross_entropy_sum, sum_by_source, sum_losses_by_source
from siredon.train.memory_guard import Counts
from siredon.train.optimize import OptimizerPlan, build_optimizer
from siredon.train.sampler import LengthSampler, MixedSampler, ShuffledSampler

#: The exponential of more than this is no number.
_MOST_FOR_EXP = 700.0


class SiredonTrainer(GuardedTrainer):
    """Next-token training on batches of `data.collate`.

    Args:
        selects_logits: The model computes logits only where it is asked to (`logits_to_keep`).
        autocast: Format of mixed-precision arithmetic, None for none.  (fp16 is left to accelerate, which scales
            the loss; for bf16 accelerate would turn all logits into fp32 at once.)
        schedule: Builds the schedule of the learning rate; by default that of `transformers.Trainer`.
        sources: Names of data sets whose losses are logged; batches say of which one each token is.
        options: What `transformers.Trainer` takes.
    """

    #: Whether the loss comes from hidden states on a CPU too, where the file does not say and the head allows it.
    chunks_everywhere = False
    #: How many numbers `count_items` gives.
    num_items = 1

    optimizer: Any
    lr_scheduler: Any
    current_flos: Any

    def __init__(
        self,
        *,
        selects_logits: bool,
        autocast: torch.dtype | None = None,
        schedule: ScheduleBuilder | None = None,
        sources: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        # `compute_loss` divides by all targets of the optimizer step, which is what this tells `Trainer`.
        self.model_accepts_loss_kwargs = True
        self.num_tokens_seen = 0
        #: Noise on the embeddings of what is trained on, if any.
        self.noise: EmbeddingNoise | None = None
        #: Where it is set, the optimizer is of the shelf `optimizers/`, else the default of transformers.
        self.optimizing: OptimizerPlan | None = None
        #: Scores of the model's own answers, which are measured with the validation loss, if any.
        self.score_answers: Callable[[], dict[str, float]] | None = None
        self.num_targets_seen = 0
        #: What the next log line has summed up over all ranks, where they cannot be asked any more.
        self.gathered_log: dict[str, Any] | None = None
        #: Computes the loss from hidden states, in chunks; None for a loss over the model's logits.
        self.chunked: ChunkedLoss | None = None
        # Labels of this step's micro-batches, and how many of each are targets: so that nothing need ask the device
        self._counted: list[tuple[torch.Tensor, int]] = []
        self._num_micro_batches = 0  # of the optimizer step in hand, so far
        #: What `count_items` counts, of the optimizer step in hand, on all ranks; 1 where there are none.
        self.step_items = torch.ones(self.num_items, dtype=torch.long, device=self.args.device)
        # Share of this rank in the loss of the optimizer step; its mean over ranks is that loss
        self.step_loss = torch.zeros((), device=self.args.device)
        self._selects_logits = selects_logits
        self._autocast = autocast
        self._schedule = schedule
        self._sources = tuple(sources)
        self._total_loss: torch.Tensor | None = None
        self._sums_before: tuple[torch.Tensor, ...] = ()
        self._operations_per_token: int | None = None
        # What the next log line is made of, by name, summed since the last one on this rank: in `by_source` losses and
        # targets of each data set
        self._sums = {"by_source": self._zeros(2, len(self._sources))}

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.args.device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer of the config."""
        if self.optimizer is None and self.optimizing is not None:
            trained = self.model if model is None else model
            self.optimizer = build_optimizer(
                trained, self.get_decay_parameter_names(trained), self.optimizing
            )
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the weights; with a schedule-free optimizer its averages."""
        self._use_averages()
        super().save_model(output_dir, _internal_call)

    def _use_averages(self) -> None:
        # The next training step goes back by itself; other optimizers have no averages.
        if isinstance(self.optimizer, AcceleratedOptimizer):
            self.optimizer.eval()

    def compute_loss_context_manager(self) -> ExitStack:
        """What every forward pass runs in."""
        stack = ExitStack()
        if self._autocast is not None:
            stack.enter_context(torch.autocast(self.args.device.type, dtype=self._autocast))
        return stack

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of the learning rate, once the optimizer is there."""
        if self.accelerator.scaler is not None:
            show_skipped_steps_(self.optimizer)
        if self.lr_scheduler is None and self._schedule is not None:
            self.lr_scheduler: Any = self._schedule.build(optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        found: torch.optim.lr_scheduler.LRScheduler = super().create_scheduler(num_training_steps, optimizer)
        return found

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of an epoch; those of a stream, as they come."""
        dataset = self.train_dataset
        if not isinstance(dataset, IterableDataset):
            ordinary: DataLoader[Any] = super().get_train_dataloader()
            return ordinary
        # A loader draws a seed when it starts.  From a generator of its own: the state of the others was restored
        # before, where a run goes on.
        loader = DataLoader(
            dataset,
            batch_size=self.args.train_batch_size,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator().manual_seed(self.args.seed),
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        groups = self.args.train_sampling_strategy == "group_by_length"
        size = self.args.train_batch_size * self.args.world_size
        if isinstance(dataset, MixedDataset):
            return MixedSampler(dataset, size if groups else None, self.args.seed, self._epoch)
        if groups:
            return LengthSampler(dataset, size, self.args.seed, self._epoch)
        if self.args.train_sampling_strategy == "sequential":
            return SequentialSampler(dataset)
        return ShuffledSampler(dataset.packs, self.args.seed, self._epoch)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """That of the checkpoint; after a change of the number of ranks, one that the seed, step and rank decide."""
        if checkpoint is None or len(list(Path(checkpoint).glob("rng_state*.pth"))) == self.args.world_size:
            super()._load_rng_state(checkpoint)
        else:
            seed = [self.args.seed, self.state.global_step, self.args.world_size, self.args.process_index]
            set_seed(int(np.random.default_rng(seed).integers(2**32)))

    def _epoch(self) -> int:
        return int(self.state.epoch or 0)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        # Never by length: the order of validation rows is their own.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The micro-batches of one optimizer step, and by how much all ranks divide its loss; see `count_items`."""
        batches: list[Any] = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        counts = torch.zeros(2 + len(self.step_items), dtype=torch.long, device=device)
        for batch in batches:
            counts[0] += (batch["labels"] != IGNORE).sum().to(device)
            counts[1] += batch["num_tokens"].sum().to(device)
            counts[2:] += self.count_items(batch).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        # What the guard has to know of the step before is read with them: the device is asked once
        codes = [] if self.guard is None else [self.guard.code[None]]
        own = [] if self.chunked is None else [_count_targets(batches, device)]
        num_targets, num_tokens, *found = torch.cat([counts[:2], *codes, *own]).tolist()
        self.step_items.copy_(counts[2:]).clamp_(min=1)
        self.begin_step_(batches, found[0] if codes else 0)
        labels = [batch["labels"] for batch in batches] if own else []
        self._counted = list(zip(labels, found[len(codes) :], strict=True)) if own else []
        if self.model.config._attn_implementation == FAST_ATTENTION:
            for batch in batches:
                measure_ahead(batch["position_ids"])
        if not self.passes_over:
            self.num_targets_seen += num_targets
            self.num_tokens_seen += num_tokens
        self.step_loss.zero_()
        self._num_micro_batches = 0
        self._total_loss = None
        if self.guard is not None:
            self._sums_before = tuple(total.clone() for total in (self._tr_loss, *self._sums.values()))
        return batches, self.step_items[0]

    def count_items(self, batch: Batch) -> torch.Tensor:
        """What losses of a step are means of, counted in a batch, [K]; here target tokens alone.

        The sum of `sum_losses` over the step is divided by the first of them.
        """
        return (batch["labels"] != IGNORE).sum()[None]

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """One forward and backward pass; of several ranks, each draws random numbers of its own."""
        if self.args.world_size == 1:
            return super().training_step(*args, **options)
        place = (self.args.seed, self.args.process_index, self.state.global_step, self._num_micro_batches)
        self._num_micro_batches += 1
        with random_numbers_of(self.args.device, *place):
            return super().training_step(*args, **options)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The share of this rank in the step's loss, scaled so that the mean over ranks is the step's loss."""
        total = self.sum_losses(model, inputs)
        assert num_items_in_batch is not None
        loss = total * self.accelerator.num_processes / num_items_in_batch
        self.step_loss += loss.detach()
        return (loss, {}) if return_outputs else loss

    def sum_losses(self, model: torch.nn.Module, inputs: Batch) -> torch.Tensor:
        """The summed loss of a batch, a scalar with its gradient, over all that `count_items` counts."""
        with self._noise_on(inputs):
            return (
                self._sum_logits(model, inputs) if self.chunked is None else self._sum_chunks(model, inputs)
            )

    def _sum_logits(self, model: torch.nn.Module, inputs: Batch) -> torch.Tensor:
        logits, targets, places = self._predict(model, inputs)
        if self._sources:
            # No target is the first token of its document: it is of the data set of the token that predicts it.
            sources = inputs["sources"][:, places]
            self._sums["by_source"] += sum_by_source(logits, targets, sources, len(self._sources))
        return cross_entropy_sum(logits, targets)

    def _sum_chunks(self, model: torch.nn.Module, inputs: Batch) -> torch.Tensor:
        total, losses, targets = self._measure(model, inputs)
        if self._sources:
            sums = sum_losses_by_source(losses, targets, inputs["sources"], len(self._sources))
            self._sums["by_source"] += sums
        return total

    def _measure(
        self, model: torch.nn.Module, inputs: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Summed loss, with its gradient; the loss of each token and the ids that are predicted, [B, T]."""
        assert self.chunked is not None
        targets = shift_labels(inputs["labels"])
        known = self.find_count(inputs)
        total, losses = self.chunked.measure(lambda: self.run_model(model, inputs), targets, known)
        return total, losses, targets

    def find_count(self, inputs: Batch) -> int | None:
        """The targets of a batch of this step, counted before; None for another batch."""
        labels = inputs["labels"]
        return next((count for counted, count in self._counted if counted is labels), None)

    def mark_counts(self) -> Counts:
        """What has been counted and summed up so far."""
        sums = {name: total.clone() for name, total in self._sums.items()}
        numbers = self.num_tokens_seen, self.num_targets_seen, self.current_flos
        return Counts(*numbers, self.step_loss.clone(), self._tr_loss.clone(), sums)

    def restore_counts_(self, counts: Counts) -> None:
        """Goes back there."""
        self.num_tokens_seen, self.num_targets_seen = counts.tokens, counts.targets
        self.current_flos = counts.flos
        self.step_loss.copy_(counts.step_loss)
        self._tr_loss.copy_(counts.log_loss)
        for name, total in self._sums.items():
            total.copy_(counts.sums[name])

    def _noise_on(self, inputs: Batch) -> AbstractContextManager[None]:
        if self.noise is None:
            return nullcontext()
        return self.noise.during(inputs["position_ids"], inputs["num_tokens"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs what is given, and with a training loss those of the data sets, if asked for."""
        if self._sources and "loss" in logs:
            sums = self.take_sums_("by_source")
            for name, (total, count) in zip(self._sources, sums.T.tolist(), strict=True):
                if count:
                    logs[f"loss/{name}"] = total / count
        super().log(logs, start_time)

    def take_sums_(self, name: str) -> torch.Tensor:
        """What was summed up under a name since the last log, over all ranks; from now on nothing is."""
        sums = self._sums[name].clone()
        self._sums[name].zero_()
        return self.accelerator.reduce(sums, reduction="sum") if self.args.world_size > 1 else sums

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loss of the whole validation set, on all ranks together, and what else `name_measures` makes of it."""
        self._use_averages()
        model = self.model
        if not self.is_in_train:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        was_training = model.training
        model.eval()
        sums, num_samples = self.measure_all(model, dataloader)
        model.train(was_training)
        found = self.name_measures(sums)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        if self.score_answers is not None:
            scores = self.score_answers()
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        return EvalLoopOutput(predictions=(), label_ids=None, metrics=metrics, num_samples=num_samples)

    def measure_all(self, model: torch.nn.Module, dataloader: DataLoader[Any]) -> tuple[list[float], int]:
        """What `measure_packs` gives of a validation set, pooled, [K], over all ranks, and its number of packs."""
        return self.sum_packs(model, dataloader, self.measure_packs)

    def sum_packs(
        self,
        model: torch.nn.Module,
        dataloader: DataLoader[Any],
        measure: Callable[[torch.nn.Module, Batch], torch.Tensor],
    ) -> tuple[list[float], int]:
        """What is measured of each pack, [packs, K], pooled over a validation set, and its number of packs."""
        pooled: list[torch.Tensor] = []
        num_packs = 0
        # A loader draws a seed when it starts: without the fork, validating would change the training after it.
        with torch.no_grad(), torch.random.fork_rng(devices=[]), self.compute_loss_context_manager():
            for batch in dataloader:
                self.check_evaluation()
                inputs = self._prepare_inputs(batch)
                # Drops the rows that a sharded loader repeats to fill its last batch.
                rows = self.accelerator.gather_for_metrics(measure(model, inputs))
                pooled = [self.pool_packs(torch.stack([*pooled, self.pool_packs(rows).cpu()]))]
                num_packs += len(rows)
        (sums,) = pooled  # A validation set has rows
        return sums.tolist(), num_packs

    def measure_packs(self, model: torch.nn.Module, inputs: Batch) -> torch.Tensor:
        """What is summed up over a validation set, of each pack of a batch, [packs, K], fp64: loss and targets."""
        return torch.stack([values.double() for values in self._sum_rows(model, inputs)], dim=1)

    def pool_packs(self, rows: torch.Tensor) -> torch.Tensor:
        """What `measure_packs` gives of several packs, as one, [K]: sums."""
        return rows.sum(0)

    def name_measures(self, sums: Sequence[float]) -> dict[str, float]:
        """Those sums, [K], over the whole set -> its mean loss over all target tokens, and the exponential of that."""
        loss = sums[0] / max(1.0, sums[1])
        return {"loss": loss, "perplexity": math.exp(min(loss, _MOST_FOR_EXP))}

    def floating_point_ops(self, inputs: Any) -> int:
        """As `Trainer`, which counts the weights of the model anew for each batch: 8 ms of each with 30 layers."""
        if self._operations_per_token is None:
            one = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
            self._operations_per_token = int(super().floating_point_ops(one))
        return self._operations_per_token * int(inputs["input_ids"].numel())

    def count_tokens(self) -> tuple[int, int]:
        """Tokens that all ranks have trained on, padding left out, and how many of them this call has learned."""
        return self.num_tokens_seen, self.num_targets_seen

    def measure_step_loss(self) -> torch.Tensor:
        """The loss of this optimizer step, over all its targets, on all ranks, after its backward passes.

        A scalar on the device, equal on all ranks, which must all ask for it.  Nothing waits for the device.
        """
        if self._total_loss is None:
            loss = self.step_loss.clone()
            self._total_loss = self.accelerator.reduce(loss, "mean") if self.args.world_size > 1 else loss
        return self._total_loss

    def forget_loss_(self, is_bad: torch.Tensor) -> None:
        """Takes this step out of what the next log line sums up, where the flag on the device says so."""
        sums = (self._tr_loss, *self._sums.values())
        for now, before in zip(sums, self._sums_before, strict=True):
            now.copy_(torch.where(is_bad, before, now))

    def gather_log(self) -> dict[str, Any]:
        """What the next log line has summed up so far, over all ranks; to be asked by all ranks."""
        if self.gathered_log is not None:
            return self.gathered_log
        loss = self._tr_loss.clone()
        sums = {name: total.clone() for name, total in self._sums.items()}
        if self.args.world_size > 1:
            loss = self.accelerator.reduce(loss, reduction="mean")
            sums = {name: self.accelerator.reduce(total, reduction="sum") for name, total in sums.items()}
        return self.describe_log(loss.item(), sums)

    def describe_log(self, loss: float, sums: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """What a checkpoint keeps of the next log line, from the loss and sums of all ranks."""
        named = {name: total.tolist() for name, total in sums.items()}
        return {"step": self._globalstep_last_logged, "loss": loss, **named}

    def restore_log_(self, kept: dict[str, Any]) -> None:
        """Goes on summing up from there."""
        self._tr_loss += kept["loss"]
        self._globalstep_last_logged = kept["step"]
        for name, total in self._sums.items():
            before = torch.tensor(kept.get(name, ()), dtype=torch.float64)
            if self.is_world_process_zero() and before.shape == total.shape:
                total += before.to(total.device)

    def load_best_(self) -> None:
        """Gives the model the weights of the best checkpoint, if any validation has been made."""
        if self.state.best_model_checkpoint is None:
            return
        self.finish_saving()
        self._load_best_model()
        folder = Path(self.state.best_model_checkpoint)
        if (folder / RELORA).is_file():
            read_base_(self.model.get_base_model(), folder)

    def measure_row(self, batch: Batch) -> float:
        """The loss of a batch of one row, over its targets, on this rank; 0 if nothing is learned."""
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, targets = self._sum_rows(self.model, self._prepare_inputs(batch))
        return float(losses.sum() / targets.sum().clamp(min=1))

    def run_model(self, model: torch.nn.Module, inputs: Batch, **options: Any) -> torch.Tensor:
        """The forward pass of this run: logits of a batch."""
        outputs = model(
            input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False, **options
        )
        logits: torch.Tensor = outputs.logits
        return logits

    def _predict(
        self, model: torch.nn.Module, inputs: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of shape [B, K, V], the ids that they predict, [B, K], and at which tokens they stand, [K]."""
        targets = shift_labels(inputs["labels"])
        places = torch.arange(targets.shape[1], device=targets.device)
        if not self._selects_logits:
            return self.run_model(model, inputs), targets, places
        # Logits only at positions that predict a target in some row; at least one, so that a
        # batch without targets still has a (zero) gradient.
        keep = (targets != IGNORE).any(dim=0).nonzero().flatten()
        keep = keep if len(keep) else places[:1]
        return self.run_model(model, inputs, logits_to_keep=keep), targets[:, keep], keep

    def _sum_rows(self, model: torch.nn.Module, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss and number of targets of each pack of a batch, also where all lie end to end in one row."""
        if self.chunked is not None:
            _, each, wanted = self._measure(model, inputs)
            return _sum_packs(each, inputs["num_tokens"]), _sum_packs(wanted != IGNORE, inputs["num_tokens"])
        logits, targets, places = self._predict(model, inputs)
        rows = list(zip(logits, targets, strict=True))
        num_tokens = inputs["num_tokens"]
        if len(rows) < len(num_tokens):
            pack = torch.searchsorted(num_tokens.cumsum(0), places, right=True)
            rows = [(logits[0, pack == index], targets[0, pack == index]) for index in range(len(num_tokens))]
        losses = [cross_entropy_sum(found, wanted) for found, wanted in rows]
        return torch.stack(losses), torch.stack([(wanted != IGNORE).sum() for _, wanted in rows])


def shift_labels(labels: torch.Tensor) -> torch.Tensor:
    """The ids that tokens predict, [B, T]: the labels of those behind them."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def _count_targets(batches: Sequence[Batch], device: torch.device) -> torch.Tensor:
    """Tokens of each batch that predict a target, on the device."""
    return torch.stack([(batch["labels"][:, 1:] != IGNORE).sum().to(device) for batch in batches])


def _sum_packs(values: torch.Tensor, num_tokens: torch.Tensor) -> torch.Tensor:
    """Sums [packs] of values [B, T], of whose packs each is a row, or all lie end to end in one."""
    if len(values) == len(num_tokens):
        return values.sum(1)
    places = torch.arange(values.shape[1], device=values.device)
    # Padding at the end goes with the last: nothing of it is learned
    pack = torch.searchsorted(num_tokens.cumsum(0), places, right=True).clamp(max=len(num_tokens) - 1)
    sums = torch.zeros(len(num_tokens), dtype=values.sum().dtype, device=values.device)
    return sums.index_add_(0, pack, values[0].to(sums.dtype))
