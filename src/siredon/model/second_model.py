"""A second model, frozen, that the one in training is compared with: read and computed as that one is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siredon.config.schema import Config
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.adapter_folder import check_adapter, load_adapter
from siredon.model.compile import compile_layers_
from siredon.model.float8 import use_float8_products_
from siredon.model.fuse import choose_kernels, describe_situation
from siredon.model.install import install_kernels_
from siredon.model.load import Source, load_model
from siredon.model.placement import is_spread
from siredon.model.precision import Precision, set_formats_
from siredon.model.tokenizer import load_tokenizer

#: The keys that name it, for messages.
_MODEL, _ADAPTER = "reference_model", "reference_adapter"


@dataclass(frozen=True)
class SecondModel:
    """A frozen model on its device, in evaluation mode.

    Args:
        model: The module to call: an adapter of PEFT around `base`, or `base` itself.
        base: The model of transformers.
        name: What it is, for people.
    """

    model: Any
    base: Any
    name: str


def load_second_model(
    config: Config, tokenizer: Any, precision: Precision, hardware: Hardware, device: Any
) -> SecondModel:
    """Reads the model that `reference_model` names, or the base once more, with the adapter of `reference_adapter`.

    Formats, few bits, attention, kernels and compiled layers are those of the model in training, so that equal weights
    give equal numbers.

    Args:
        config: The whole config.
        tokenizer: That of the run; the second model must have its vocabulary.
        precision: Number formats.
        hardware: What it runs on.
        device: Where it goes, unless it was laid out as it was read.

    Raises:
        ModelError: The model cannot be read, or has another vocabulary.
        CheckpointError: The folder of the adapter holds none, or one that does not fit.
    """
    section, reference = config.reference_to_load, config.reference
    folder = None if reference.reference_adapter is None else Path(reference.reference_adapter).expanduser()
    if folder is not None:
        check_adapter(folder, f"Name the folder of an adapter in `{_ADAPTER}`.")
    try:
        if reference.reference_model is not None:
            check_vocabulary(config, tokenizer)
        source = replace(Source.of(config, places=True), model=section)
        base = load_model(source, precision.weights, tokenizer, hardware, seed=config.batch.seed)
        use_float8_products_(base, config.precision, hardware)
    except ModelError as error:
        if reference.reference_model is None or not error.message.startswith("base_model:"):
            raise
        raise ModelError(f"{_MODEL}:{error.message.removeprefix('base_model:')}", error.fix) from error
    model, name = base, section.base_model
    if folder is not None:
        in_fp32 = config.adapter.peft_autocast_adapter_dtype and not precision.is_pure
        model = load_adapter(base, folder, autocast_adapter_dtype=in_fp32)
        name = f"{name} with the adapter in {folder}"
    model.requires_grad_(False)
    set_formats_(model, base, config.precision, precision)
    if not is_spread(base) and base.get_input_embeddings().weight.device != device:
        model.to(device)
    install_kernels_(base, choose_kernels(config), describe_situation(config, hardware))
    compile_layers_(base, config.compile, hardware)
    model.eval()
    return SecondModel(model, base, name)


def check_vocabulary(config: Config, tokenizer: Any) -> None:
    """Refuses a `reference_model` whose tokens have other ids than those of the run.

    Both tokenizers are changed as the config says (`tokens`, `special_tokens`, `added_tokens_overrides`) before they
    are compared.  How they split text makes no difference: log-probabilities are those of given ids.

    Args:
        config: Names the model.
        tokenizer: That of the run.

    Raises:
        ModelError: A token has another id, or is in one of them only.
    """
    section = config.reference_to_load
    own = config.tokenizer.model_copy(update={"tokenizer_config": section.base_model})
    try:
        found = load_tokenizer(own, section).get_vocab()
    except ModelError:
        note(f"reference: {section.base_model} has no tokenizer; its ids are taken for those of the run")
        return
    wanted = tokenizer.get_vocab()
    odd = sorted(name for name, _ in found.items() ^ wanted.items())
    if not odd:
        return
    here, there = (vocabulary.get(odd[0], "none") for vocabulary in (wanted, found))
    raise ModelError(
        f"{_MODEL}: {section.base_model} has another vocabulary than {config.tokenizer_path}: {odd[0]!r} has the id "
        f"{there}, not {here}; {len(set(odd)):,} tokens differ of {len(wanted):,}",
        "Name a model with the same tokenizer: log-probabilities are compared id by id.",
    )
