"""A merged model held against its base and adapter: the same tokens, the logits of both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from siredon.config.schema import Config
from siredon.config.sections.quantization import QuantizationSection
from siredon.data.peek import first_rows
from siredon.data.prepare import Preparation, build_recipe
from siredon.data.samples import make_row
from siredon.errors import DataError, ModelError
from siredon.evaluate.agreement import Agreement, compare_logits, store_logits
from siredon.export.merge_stage import Change, scale_
from siredon.hardware import Hardware, release_memory
from siredon.log import show
from siredon.model.adapter_folder import add_frozen_adapters, load_adapter, without_start
from siredon.model.load import Source, load_model
from siredon.model.locate import tuned_model
from siredon.model.precision import resolve_precision

#: How many rows are asked, and how many tokens of each: with 128,000 tokens in the vocabulary 0.5 GB of logits.
NUM_SAMPLES = 8
NUM_TOKENS = 128
#: For a model whose data is not here.
_TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Write a short poem about the sea.\n\nThe sea is wide, the sea is deep,",
    "def add(first, second):\n    return first + second\n",
    "Water boils at 100 degrees Celsius at sea level; on a mountain it boils sooner, because",
    "Question: If a train travels 120 km in 2 hours, how fast is it?\nAnswer: 60 km/h.",
    "Once upon a time there was a small village at the edge of a dark forest.",
    '{"name": "Ada", "age": 36, "languages": ["English", "French"]}',
    "Translate to German: Good morning, how are you?\nGuten Morgen, wie geht es Ihnen?",
)


def choose_samples(config: Config, tokenizer: Any) -> tuple[list[list[int]], str]:
    """What the models are asked: rows of the run's data as training sees them; a few texts where there are none.

    Returns:
        Token ids, and what they are, for people.
    """
    samples = _read_rows(config, tokenizer)
    if samples:
        return samples, "rows of the training data"
    texts = (list(tokenizer(text)["input_ids"])[:NUM_TOKENS] for text in _TEXTS)
    return [ids for ids in texts if ids], "built-in texts"


def _read_rows(config: Config, tokenizer: Any) -> list[list[int]]:
    entry = config.first_dataset
    preparation = Preparation(
        tokenizer, config.tokenizer, config.data, config.batch.seed, formats=config.preference.formats
    )
    try:
        recipe = build_recipe(entry, preparation, config.data.sequence_len)
        made = (make_row(row, f"row {number}", recipe) for number, row in enumerate(first_rows(entry)))
        kept = (sample for row in made for sample in row.kept[:1])
        return [list(map(int, sample.input_ids))[:NUM_TOKENS] for sample in islice(kept, NUM_SAMPLES)]
    except DataError:  # The data of a run need not be where its result is
        return []


@dataclass(frozen=True)
class Verified:
    """What the check of a merged model found.

    Args:
        agreement: How far it is from base and adapter.
        samples: On which tokens, for people.
        max_kl: What was allowed.
    """

    agreement: Agreement
    samples: str
    max_kl: float

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return {"samples": self.samples, "allowed_kl": self.max_kl, **self.agreement.to_json()}


def verify_merge(
    config: Config,
    changes: Sequence[Change],
    merged: Path,
    tokenizer: Any,
    hardware: Hardware,
    max_kl: float,
) -> Verified:
    """Holds a merged model against base and adapters, each computed in the format of the result.

    Args:
        config: The whole config of the run.
        changes: The adapters that were merged, without those of `lora_frozen_dirs`.
        merged: The merged model.
        tokenizer: Of both.
        hardware: Where they compute.
        max_kl: What is allowed, in nats a token.

    Raises:
        ModelError: The merged model does not say what base and adapter say.
    """
    samples, what = choose_samples(config, tokenizer)
    with tempfile.TemporaryDirectory(
        dir=merged
    ) as folder:  # there it goes with the rest if the process is killed
        store_logits(_load_adapted(config, changes, tokenizer, hardware), samples, Path(folder))
        release_memory(hardware)
        model = _load_merged(config, merged, tokenizer, hardware)
        agreement = compare_logits(Path(folder), model, samples)
    if not agreement.kl <= max_kl:
        raise ModelError(
            f"the merged model does not say what base and adapter say: {agreement.describe()}. At most {max_kl:g} nats "
            "a token are allowed, so nothing was written",
            "A format too coarse for what the adapter changes rounds it away: merge in a wider one (`bf16: false`). Or "
            "allow more with `--max-kl`; `--no-verify` leaves the check out.",
        )
    show(f"merged against base and adapter, {what}, {agreement.describe()}")
    return Verified(agreement, what, max_kl)


def _load_adapted(config: Config, changes: Sequence[Change], tokenizer: Any, hardware: Hardware) -> Any:
    """Base and adapters as they are used, beside each other."""
    source = Source.of(config)
    if config.quantization.merge_base == "original":
        source = replace(source, quantization=QuantizationSection())
    dtype = resolve_precision(config.precision, hardware, has_adapter=True).weights
    base = load_model(source, dtype, tokenizer, hardware, seed=config.batch.seed)
    adapted = load_adapter(add_frozen_adapters(base, config.adapter), changes[0].folder)
    scale_(adapted, changes[0].weight)
    names = ["default"]
    for number, change in enumerate(changes[1:], 2):
        names.append(f"adapter-{number}")
        with without_start(change.folder) as folder:
            adapted.load_adapter(str(folder), adapter_name=names[-1])
        scale_(adapted, change.weight, names[-1])
    if len(names) > 1:
        adapted.base_model.set_adapter(names)
    return adapted.to(hardware.device).eval()


def _load_merged(config: Config, merged: Path, tokenizer: Any, hardware: Hardware) -> Any:
    dtype = resolve_precision(config.precision, hardware, has_adapter=True).weights
    source = Source.of(config).of_output(tuned_model(config.model_to_load, merged))
    model = load_model(source, dtype, tokenizer, hardware, seed=config.batch.seed)
    return model.to(hardware.device).eval()
