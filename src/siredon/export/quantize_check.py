"""A quantized model held against the one that it was made of: loss, logits, speed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from siredon.config.schema import Config
from siredon.data.collate import PackDataset
from siredon.errors import DataError, ModelError
from siredon.evaluate.agreement import Agreement, compare_logits, store_logits
from siredon.evaluate.candidates import Candidate, load_other
from siredon.evaluate.loss import Loss, measure_losses
from siredon.evaluate.rows import Rows, prepare_rows
from siredon.evaluate.speed import Speed, measure_speed
from siredon.export.quantize import Written
from siredon.export.verify import choose_samples
from siredon.hardware import Hardware, release_memory
from siredon.log import note
from siredon.model.locate import tuned_model
from siredon.model.rounding import round_in_training_

#: Sequences whose loss is measured, at most.
_MOST_ROWS = 256


@dataclass(frozen=True)
class Figures:
    """What was measured of a model.

    Args:
        loss: On rows of the data; None where the data is not here.
        speed: Tokens a second.
    """

    loss: Loss | None
    speed: Speed

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        found: dict[str, Any] = {"tokens_per_second": self.speed.to_json()}
        if self.loss is not None:
            found |= {"loss": self.loss.mean, "perplexity": self.loss.perplexity}
            found |= {"target_tokens": self.loss.num_targets}
        return found


@dataclass(frozen=True)
class Checked:
    """What the check of a quantized model found.

    Args:
        rows: Which rows the loss is of, for people; empty where the data is not here.
        samples: Which tokens the logits are of, for people.
        before: The model that was rounded.
        after: The model that was written, read back.
        agreement: How far it is from the model that was rounded.
        learned: How far it is from that model as it was trained, with its layers that round; None without `qat`.
        max_kl: What was allowed, in nats a token; None for no bound.
        device: What it was measured on.
    """

    rows: str
    samples: str
    before: Figures
    after: Figures
    agreement: Agreement
    learned: Agreement | None
    max_kl: float | None
    device: str

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return {
            "rows": self.rows,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "agreement": {"samples": self.samples, "allowed_kl": self.max_kl, **self.agreement.to_json()},
            "agreement_with_training": self.learned.to_json() if self.learned else None,
            "device": self.device,
        }


def check_quantized(config: Config, written: Written, hardware: Hardware, max_kl: float | None) -> Checked:
    """Measures the model that was rounded, then the folder that was written; one is let go before the other.

    Args:
        config: The whole config of the run.
        written: The folder.
        hardware: What they run on.
        max_kl: What is allowed, in nats a token; None for no bound.

    Raises:
        ModelError: They are further apart than is allowed, or one cannot be loaded.
    """
    chosen, source = written.chosen, written.source
    if chosen.method.mixes_tokens and config.shares_sequences:
        note(
            f"the loss is that of rows by themselves, not packed: {chosen.name} rounds by all tokens of a batch"
        )
        config = unpack(config)
    # There they go with the rest if the process is killed
    with tempfile.TemporaryDirectory(dir=written.folder) as name:
        whole, felt = Path(name) / "whole", Path(name) / "felt"
        whole.mkdir()
        felt.mkdir()
        candidate = _load(config, source.folder, hardware)
        samples, what = choose_samples(config, candidate.tokenizer)
        rows = _prepare_rows(config, candidate)
        before = _measure(candidate, config, rows, samples, hardware)
        store_logits(candidate.model, samples, whole)
        if chosen.learned is not None:
            round_in_training_(candidate.base, chosen.learned)
            store_logits(candidate.model.eval(), samples, felt)
        del candidate
        release_memory(hardware)
        candidate = _load(config, written.folder, hardware)
        after = _measure(candidate, config, rows, samples, hardware)
        agreement = compare_logits(whole, candidate.model, samples)
        learned = compare_logits(felt, candidate.model, samples) if chosen.learned is not None else None
        del candidate
        release_memory(hardware)
    if max_kl is not None and not agreement.kl <= max_kl:
        raise ModelError(
            f"the quantized model does not say what the whole one says: {agreement.describe()}. At most {max_kl:g} "
            "nats a token are allowed, so nothing was written",
            "Use more bits (`--method int8`) or smaller groups (`--group-size 32`), or train for the rounding with "
            "`qat:`. Or allow more with `--max-kl`.",
        )
    return Checked(_describe(rows), what, before, after, agreement, learned, max_kl, hardware.describe())


def unpack(config: Config) -> Config:
    """The same, with each row in a sequence of its own."""
    changes = {"sample_packing": False, "eval_sample_packing": False, "batch_flattening": None}
    return config.model_copy(update={"packing": config.packing.model_copy(update=changes)})


def _load(config: Config, folder: Path, hardware: Hardware) -> Candidate:
    return load_other(config, tuned_model(config.model, folder), hardware)


def _prepare_rows(config: Config, candidate: Candidate) -> Rows | None:
    """Validation rows, or training rows where there are none; None where the data is not here."""
    if config.first_dataset.path == str(config.checkpoint.output_folder):
        note(
            "no loss is measured: the model's own folder says nothing of its data (`datasets.0.path=rows.jsonl` does)"
        )
        return None
    try:
        rows = prepare_rows(config, candidate.tokenizer, None)[0]
    except DataError as error:
        note(f"no loss is measured: {error.message}")
        return None
    if len(rows.packs) <= _MOST_ROWS:
        return rows
    return replace(
        rows,
        packs=PackDataset(rows.packs.table, [pack.tolist() for pack in islice(rows.packs.packs, _MOST_ROWS)]),
    )


def _describe(rows: Rows | None) -> str:
    return f"{len(rows.packs):,} {rows.split} sequences" if rows is not None else ""


def _measure(
    candidate: Candidate, config: Config, rows: Rows | None, samples: Sequence[list[int]], hardware: Hardware
) -> Figures:
    loss = measure_losses(candidate, rows, config, hardware).whole if rows is not None else None
    candidate.model.eval()
    return Figures(loss, measure_speed(candidate.model, max(samples, key=len)))
