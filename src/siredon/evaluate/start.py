"""A model at its start, and what its training made of it: of judged rows the first is what the second is held against.

The start is what `build_model` of a training makes: the base; or the base with the adapter that a training goes on
with, or with one that does not begin as nothing.  It is never read off trained weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from siredon.config.artifact import load_run
from siredon.config.schema import Config
from siredon.config.sections.adapter import AdapterSection
from siredon.errors import CheckpointError
from siredon.evaluate.candidates import Candidate, check_alone, load_candidate, load_tuned
from siredon.evaluate.wanted import Which
from siredon.hardware import Hardware, release_memory
from siredon.log import note
from siredon.model.adapter_folder import find_adapter
from siredon.model.locate import tuned_model


def load_start_and_tuned(config: Config, which: Which, hardware: Hardware) -> Iterator[Candidate]:
    """The start, where it is asked for or compared with, and then the tuned model, where that is asked for.

    One is let go before the next is loaded.  Where an adapter began as nothing, both are one model.

    Args:
        config: The whole config.
        which: The models that are asked for; `base` is the start.
        hardware: What they run on.

    Raises:
        CheckpointError: There is no tuned model, or nothing says what it started from.
        ModelError: A model that cannot be loaded.
        TrainingError: Several processes were started.
    """
    check_alone()
    if which != "base":
        _check_tuned(config)
    compares_with_start = config.preference.has_reference and not config.reference.is_chosen
    if which != "tuned" or compares_with_start:
        origin, adapter = find_start(config)
        if which != "base" and config.writes_adapter and config.adapter.starts_as_nothing:
            tuned = load_tuned(config, hardware)
            note("start: the base model, by switching the adapter off")
            yield tuned.switched_off("start")
            yield tuned
            return
        note(f"start: {_describe(origin, adapter)}")
        start = load_candidate(origin, origin.model, "start", hardware, adapter)
        yield start
        del start
        release_memory(hardware)
    if which != "base":
        yield load_tuned(config, hardware)


def find_start(config: Config) -> tuple[Config, AdapterSection | None]:
    """What a training started from: the config that says how it is read, and the adapter that was begun on it.

    Raises:
        CheckpointError: Nothing says so of a model from elsewhere.
        ConfigError: The keys of the run that made it are no config any more.
    """
    output, own = config.checkpoint.output_folder, config.adapter
    if config.writes_adapter:
        is_foreign = own.lora_model_dir is not None and _is_same(Path(own.lora_model_dir), output)
        # An adapter from elsewhere would be its own start: all that is known of that is the base
        return config, None if is_foreign else own
    # The config of whole weights says no more of how they came about; that of their run does
    run = load_run(output)
    if run is not None and _is_same(Path(run.model.base_model), Path(config.model.base_model)):
        return run, run.adapter if run.adapter.adapter else None
    if str(output) == config.model.base_model:
        needs = (
            f"`{config.preference.switch}` compares a model with the one that it was trained from, and nothing in "
            f"{output} says which that is"
            if config.preference.has_reference
            else f"{output} is a model whose start is not known"
        )
        raise CheckpointError(
            needs, "Name it: `base_model=FOLDER`; or name the YAML file or the folder of the run."
        )
    return config, None


def _check_tuned(config: Config) -> None:
    """Refuses early what could not be loaded later.

    Raises:
        CheckpointError: There is no tuned model.
    """
    output = config.checkpoint.output_folder
    if config.writes_adapter:
        find_adapter(config.adapter, output)
    else:
        tuned_model(config.model, output)


def _is_same(one: Path, other: Path) -> bool:
    one, other = one.expanduser(), other.expanduser()
    return one == other or one.resolve() == other.resolve()


def _describe(origin: Config, adapter: AdapterSection | None) -> str:
    base = origin.model.base_model
    if adapter is None:
        return base
    parts = [base, *(f"the adapter in {folder}" for folder in adapter.lora_frozen_dirs)]
    if adapter.lora_model_dir:
        parts.append(f"the adapter in {adapter.lora_model_dir}")
    elif not adapter.starts_as_nothing:
        parts.append("its adapter as it begins")
    return " with ".join(parts)
