"""The models that are judged, loaded as training holds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from siredon.config.artifact import RECORD
from siredon.config.schema import Config
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.model import ModelSection
from siredon.data.prompt import set_prompting_
from siredon.distributed.ranks import num_ranks
from siredon.errors import CheckpointError, TrainingError
from siredon.evaluate.wanted import Which
from siredon.hardware import Hardware, release_memory
from siredon.log import note
from siredon.model.adapt import attach_adapter_
from siredon.model.adapter_folder import add_frozen_adapters, find_adapter, load_adapter
from siredon.model.load import Source, load_model
from siredon.model.locate import tuned_model
from siredon.model.precision import Precision, resolve_precision, set_formats_
from siredon.model.tokenizer import load_tokenizer

#: The base, the model as its training started, which may be another one, and what the training made of it.
Name = Literal["base", "start", "tuned"]


@dataclass(frozen=True)
class Candidate:
    """A model that is judged.

    Args:
        name: Which of them it is.
        model: A model of transformers, or PEFT's wrapper around one, on its device.
        base: The model of transformers inside it.
        tokenizer: Its tokenizer, with the chat template that the model was taught.
        stop_ids: Tokens that end an answer.
        precision: Number formats.
        is_switched_off: Whether the adapter is there and not to be used.
    """

    name: Name
    model: Any
    base: Any
    tokenizer: Any
    stop_ids: tuple[int, ...]
    precision: Precision
    is_switched_off: bool = False

    def switched_off(self, name: Name) -> Candidate:
        """The model without its adapter, under a name of its own."""
        return replace(self, name=name, is_switched_off=True)

    def as_named(self) -> AbstractContextManager[Any]:
        """While it is open, the model is what its name says."""
        plain: AbstractContextManager[Any] = (
            self.model.disable_adapter() if self.is_switched_off else nullcontext()
        )
        return plain


def load_candidates(
    config: Config, which: Which, hardware: Hardware, other: str | None = None
) -> Iterator[Candidate]:
    """The models one after the other, the base first; one is let go before the next is loaded.

    Where the adapter can be switched off, both are one model.

    Args:
        config: The whole config.
        which: The models.
        hardware: What they run on.
        other: A model that is judged in place of the tuned one.

    Raises:
        CheckpointError: There is no tuned model, or nothing to compare it with.
        ModelError: A model that cannot be loaded.
        TrainingError: Several processes were started.
    """
    check_alone()
    output = config.checkpoint.output_folder
    if which == "both" and not other and not config.writes_adapter and str(output) == config.model.base_model:
        raise CheckpointError(
            f"{output} is a model whose origin is not known: there is no base to compare it with",
            "Leave `--compare` out, or name the YAML file or the folder of the run.",
        )
    if which == "both" and not other and config.writes_adapter and not config.adapter.hides_base:
        tuned = load_tuned(config, hardware)
        yield tuned.switched_off("base")
        yield tuned
        return
    if which != "tuned":
        candidate = load_candidate(config, config.model, "base", hardware)
        yield candidate
        del candidate
        release_memory(hardware)
    if which != "base" and other:
        note(f"the model of `lm_eval_model`: {other}")
        yield load_other(config, config.model.model_copy(update={"base_model": other}), hardware)
    elif which != "base":
        yield load_tuned(config, hardware)


def check_alone() -> None:
    """Refuses to share the work.

    Raises:
        TrainingError: Several processes were started.
    """
    if num_ranks() > 1:
        raise TrainingError("a model is judged by one process", "Run the command without `torchrun`.")


def load_other(config: Config, section: ModelSection, hardware: Hardware) -> Candidate:
    """A model in place of the tuned one, with whole embeddings as they are, asked as the tuned one is.

    Raises:
        ModelError: It cannot be loaded.
    """
    return load_candidate(config, section, "tuned", hardware)


def choose_folder(config: Config, given: Path | None, name: str) -> Path:
    """Where results go: `name` in the folder of the run, or here for a model that no run of Siredon wrote."""
    if given is not None:
        return given.expanduser()
    output = config.checkpoint.output_folder
    is_foreign = (output / "config.json").is_file() and not (output / RECORD).is_file()
    return Path(name) / output.name if is_foreign or output.is_file() else output / name


def name_by_time(folder: Path) -> Path:
    """A folder in `folder` that is named by the time, so that earlier results stay."""
    return folder / datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")


def load_tuned(config: Config, hardware: Hardware) -> Candidate:
    """What a run has made.

    Raises:
        CheckpointError: There is nothing yet, or it does not fit.
    """
    if not config.writes_adapter:
        section = tuned_model(config.model_to_load, config.checkpoint.output_folder)
        return load_candidate(config, section, "tuned", hardware)
    folder = find_adapter(config.adapter, config.checkpoint.output_folder)
    found = load_candidate(config, config.model, "tuned", hardware)
    precision = found.precision
    options = {"autocast_adapter_dtype": not precision.is_pure}
    model = load_adapter(add_frozen_adapters(found.base, config.adapter), folder, **options)
    return replace(found, model=model.to(hardware.device).eval())


def load_candidate(
    config: Config,
    section: ModelSection,
    name: Name,
    hardware: Hardware,
    adapter: AdapterSection | None = None,
) -> Candidate:
    """A model as training holds it.

    Args:
        config: The whole config.
        section: Which model.
        name: What it is called.
        hardware: What it runs on.
        adapter: The adapter that is begun on it, as a training begins it; None for none.

    Raises:
        ModelError: It cannot be loaded.
        CheckpointError: The adapter that a training goes on with is not there, or does not fit.
    """
    precision = resolve_precision(config.precision, hardware, has_adapter=config.adapter.adapter is not None)
    tokenizer = load_tokenizer(config.tokenizer, section)
    source = Source.of(config)
    if section is not config.model:
        source = source.of_output(section)
    model = load_model(source, precision.weights, tokenizer, hardware, seed=config.batch.seed)
    whole = model if adapter is None else attach_adapter_(model, adapter, seed=config.batch.seed)
    set_formats_(whole, model, config.precision, precision)
    stop_ids = set_prompting_(tokenizer, config).stop_ids
    whole = whole.to(hardware.device).eval()
    return Candidate(name, whole, model, tokenizer, stop_ids, precision)
