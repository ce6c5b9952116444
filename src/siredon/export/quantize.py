"""A model whose linear layers are rounded to few bits, in a folder that plain transformers reads."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siredon.config.model_folder import find_place
from siredon.config.schema import Config
from siredon.config.sections.quantization import PtqOptions, QatOptions, QuantizationSection
from siredon.config.stored_bits import find_lacking
from siredon.errors import ModelError
from siredon.evaluate.agreement import Agreement, compute_logits, measure_agreement
from siredon.export.compressor import Calibration, compress
from siredon.export.method import Layers, Method, Options, Refusal
from siredon.export.quantize_wanted import Quantize
from siredon.export.shards import copy_rest
from siredon.export.source import Source, find_source, open_source, read_weights
from siredon.export.tensor_files import Shards, ShardWriter, list_shards
from siredon.hardware import Hardware, name_local_device, read_capability, release_memory
from siredon.log import note, warn
from siredon.model.load import mend_generation_
from siredon.model.locate import LOADING_ERRORS
from siredon.model.quantized import count_weights, find_rounded, settle_quantized_
from siredon.model.rounding import check_groups
from siredon.registry import Shelf

#: Tokens whose logits must come back.
_PROBE = range(24)
#: What they may differ, in nats a token.
_SAME_KL = 1e-5

METHODS = Shelf("siredon.export.quantizers", "METHOD", "--method")


@dataclass(frozen=True)
class Chosen:
    """How a model is rounded.

    Args:
        name: The method's name on the shelf.
        method: The method.
        options: Groups and embeddings; where the method is one of torchao, the formats too.
        origin: What said so: `--method`, `quantization` or `qat`.
        learned: The same options, where the model has learned to be rounded in exactly this way; else None.
    """

    name: str
    method: Method
    options: Options
    origin: str
    learned: QatOptions | None = None

    def describe(self) -> str:
        """For people."""
        return f"{self.name}, by {self.method.maker}: {self.method.describe(self.options)}"


@dataclass(frozen=True)
class Written:
    """A folder that was written, and read back.

    Args:
        source: The model that it was made of.
        chosen: How.
        folder: Where it is, until it is published.
        num_layers: Linear layers and embeddings that were rounded.
        num_rounded: Their weights.
        num_weights: All weights of the model.
        read_back: How far plain transformers, with what it reads from the folder, is from the model in memory; None
            for a model that another process wrote.
    """

    source: Source
    chosen: Chosen
    folder: Path
    num_layers: int
    num_rounded: int
    num_weights: int
    read_back: Agreement | None


def choose_method(section: QuantizationSection, wanted: Quantize) -> Chosen:
    """What the command line says, or else `quantization` of the configuration, or else `qat`, by which it was trained.

    Raises:
        ModelError: Nobody says it, or what is said is not built, or has no such setting.
        UnknownPartError: No such method.
    """
    learned = section.qat
    if wanted.method is not None:
        if learned is not None:
            warn(f"the model was trained to be rounded by `qat`, and not by `--method {wanted.method}`")
        method = _load(wanted.method, "--method")
        return Chosen(wanted.method, method, _read_options(method, wanted), "--method")
    options = section.quantization or learned
    if options is not None:
        name, key = "_".join(word for word in options.formats if word), "quantization"
        if section.quantization is None:
            key = "qat"
        return Chosen(name, _load(name, key), options, key, learned if key == "qat" else None)
    raise ModelError(
        "neither the command line nor the configuration says how to round",
        f"Add `--method int8`, or `quantization:` to the YAML file. Methods: {', '.join(METHODS.names())}.",
    )


def _load(name: str, origin: str) -> Method:
    found: Method | Refusal = METHODS.load(name)
    if isinstance(found, Refusal):
        shown = f"--method {name}" if origin == "--method" else f"{origin}: {name}"
        raise ModelError(f"`{shown}` {found.why}", found.fix)
    return found


def _read_options(method: Method, wanted: Quantize) -> Options:
    """Settings of the command line, which a method must have."""
    takes_group = method.recipe is not None and method.recipe.takes_group
    if method.formats is None:
        for flag, is_set in (
            ("--group-size", wanted.group_size is not None and not takes_group),
            ("--quantize-embedding", wanted.quantize_embedding),
        ):
            if is_set:
                raise ModelError(
                    f"`{flag}` has no effect on `--method {wanted.method}`", f"Leave `{flag}` out."
                )
        return PtqOptions(weight_dtype="int4", group_size=wanted.group_size)
    weights, inputs = method.formats
    options = PtqOptions.model_validate(
        {
            "weight_dtype": weights,
            "activation_dtype": inputs,
            "group_size": wanted.group_size,
            "quantize_embedding": wanted.quantize_embedding,
        }
    )
    if options.rounds_to_floats and wanted.group_size is not None:
        raise ModelError(
            f"`--group-size` has no effect on `--method {wanted.method}`: the format says how many weights share a "
            "scale",
            "Leave `--group-size` out.",
        )
    if options.rounds_to_floats and wanted.quantize_embedding:
        raise ModelError(
            f"`--quantize-embedding`: torchao has no embeddings in {weights}",
            "Leave it out, or use `--method int8` or `int4`.",
        )
    return options


def check_device(chosen: Chosen, hardware: Hardware) -> None:
    """The package is there, and this device computes with such weights.

    Raises:
        ModelError: It does not.
    """
    for package, install in find_lacking(chosen.method.package):
        raise ModelError(
            f"`{_name(chosen)}` needs the package {package}, which is not installed",
            f"Install it: `{install}`.",
        )
    needed = chosen.method.device
    if needed is not None and not (hardware.is_gpu and read_capability() >= needed.capability):
        generation = ".".join(map(str, needed.capability))
        raise ModelError(
            f"`{_name(chosen)}` needs an NVIDIA GPU of compute capability {generation} or higher ({needed.example}), "
            f"and this is {hardware.describe()}: torchao has no such products elsewhere",
            f"Use such a GPU, or `--method {needed.instead}`.",
        )


def _name(chosen: Chosen) -> str:
    return f"--method {chosen.name}" if chosen.origin == "--method" else f"{chosen.origin}: {chosen.name}"


def choose_source(config: Config, wanted: Quantize, merge: Callable[[Config], None]) -> Source:
    """The model that is rounded: what `--base-model` names, or else that of the run.

    Args:
        config: What the command line names.
        wanted: What it says beside.
        merge: Merges the adapter of a run into `output_dir/merged`.

    Raises:
        CheckpointError: No whole weights.
        ModelError: Weights of few bits, or a GGUF file.
    """
    if wanted.base_model is None:
        return find_source(config, merge)
    folder = Path(find_place(wanted.base_model).folder)
    trusts_code = bool(config.model.trust_remote_code)
    return open_source(folder, config.checkpoint.output_folder, trusts_code=trusts_code)


def read_layers(source: Source, chosen: Chosen) -> Layers:
    """What there is to round, looked at without reading a weight.

    Raises:
        ModelError: Nothing, or a layer whose inputs are no whole number of groups.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {"trust_remote_code": source.trusts_code}
    try:
        settings = AutoConfig.from_pretrained(str(source.folder), **options)
        with torch.device("meta"):
            layers = Layers.of(AutoModelForCausalLM.from_config(settings, **options))
    except LOADING_ERRORS as error:
        raise ModelError(
            f"{source.folder} is no model of transformers: {error}", "Name a causal model."
        ) from error
    if not layers.linear:
        raise ModelError(f"{source.folder} has no linear layer beside its head, so nothing is rounded")
    if chosen.method.formats is not None or (
        chosen.method.recipe is not None and chosen.method.recipe.takes_group
    ):
        sizes = layers.linear | (layers.tables if chosen.options.quantize_embedding else {})
        check_groups(sizes, chosen.options, "qat" if chosen.origin == "qat" else "quantization")
    return layers


def write_quantized(
    source: Source,
    chosen: Chosen,
    layers: Layers,
    hardware: Hardware,
    folder: Path,
    calibration: Calibration | None = None,
) -> Written:
    """Rounds the weights as they are read, and writes model, settings and tokenizer.

    Args:
        source: The model with whole weights.
        chosen: How they are rounded.
        layers: What there is to round.
        hardware: Where.
        folder: An empty folder.
        calibration: For a method that rounds by rows of data.

    Raises:
        ModelError: The library cannot round this model, or the rounded one computes no numbers, or what was written is
            read back as another one.
    """
    note(f"rounding {source.folder}: {chosen.describe()}")
    recipe = chosen.method.recipe
    if recipe is not None and calibration is not None:
        copy_rest(source, folder, None)
        compress(source, recipe, recipe.build(layers, chosen.options), calibration, folder)
        sizes = {name: math.prod(shape) for name, shape in Shards(list_shards(source.folder)).shapes.items()}
        num_rounded = sum(sizes[f"{name}.weight"] for name in layers.linear)
        return Written(
            source, chosen, folder, len(layers.linear), num_rounded, sum(sizes.values()), read_back=None
        )
    rest = source
    if chosen.options.quantize_embedding and layers.is_tied:
        note("the head stays whole, as a tensor of its own: it had the weights of the embedding")
        rest = Source(untie(source, layers, folder / ".untied"), source.run, source.trusts_code)
    model = _round(rest, chosen, layers, hardware)
    said = compute_logits(model, _PROBE).cpu()
    _check_numbers(said, source, chosen)
    copy_rest(source, folder, None)
    mend_generation_(model.generation_config)
    model.save_pretrained(folder)
    if rest is not source:
        shutil.rmtree(rest.folder)
    rounded = [module.get_parameter("weight") for _, module in find_rounded(model)]
    counts = len(rounded), sum(map(count_weights, rounded)), sum(map(count_weights, model.parameters()))
    del model, rounded
    release_memory(hardware)
    return Written(source, chosen, folder, *counts, _read_back(source, folder, said, chosen, hardware))


def _check_numbers(logits: torch.Tensor, source: Source, chosen: Chosen) -> None:
    """What the rounded model says, [tokens, vocabulary], is made of numbers."""
    bad = int((~logits.isfinite()).any(-1).sum())
    if bad:
        raise ModelError(
            f"{source.folder} rounded by {chosen.name} computes no numbers: NaN or infinite after {bad} of "
            f"{len(logits)} tokens; nothing was written",
            "Use another method, such as `--method int8`. If `siredon evaluate` has no loss of the whole model either, "
            "its weights are broken.",
        )


def _read_back(
    source: Source, folder: Path, said: torch.Tensor, chosen: Chosen, hardware: Hardware
) -> Agreement:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder), device_map={"": name_local_device(hardware)}, trust_remote_code=source.trusts_code
    )
    settle_quantized_(model, chosen.method.package)
    agreement = measure_agreement(said, compute_logits(model.eval(), _PROBE).cpu())
    del model
    release_memory(hardware)
    if not agreement.kl <= _SAME_KL:
        raise ModelError(
            f"{folder.name} is read back as another model: {agreement.describe()}; nothing is left of it",
            "Report it, with the versions that `siredon env` says; another method may do.",
        )
    return agreement


def _round(source: Source, chosen: Chosen, layers: Layers, hardware: Hardware) -> Any:
    from transformers import AutoModelForCausalLM

    dtype = source.read_dtype()
    assert chosen.method.build is not None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(source.folder),
            dtype=dtype,
            quantization_config=chosen.method.build(layers, chosen.options, dtype),
            device_map={"": name_local_device(hardware)},
            trust_remote_code=source.trusts_code,
        )
    except (*LOADING_ERRORS, NotImplementedError, AssertionError) as error:
        raise ModelError(
            f"{chosen.method.package} cannot round {source.folder} by {chosen.name}: {error}",
            "Use another method, such as `--method int8`.",
        ) from error
    settle_quantized_(model, chosen.method.package)
    return model.eval()


def untie(source: Source, layers: Layers, folder: Path) -> Path:
    """Writes the model with a head of its own, which has the numbers that it had.

    Args:
        source: A model whose head is its embedding.
        layers: Names of both.
        folder: Made, and filled.

    Raises:
        ModelError: The embedding has another name on the disk.
    """
    folder.mkdir()
    table, head = f"{layers.embedding}.weight", f"{layers.head}.weight"
    names = [name for name in Shards(list_shards(source.folder)) if name != head]
    if table not in names:
        raise ModelError(
            f"{source.folder} has no tensor {table}, so its head cannot be kept whole",
            "Leave `quantize_embedding` out.",
        )
    with ShardWriter(folder, [*names, head]) as writer:
        for name, weight in read_weights(source.folder):
            if name == head:
                continue
            writer.write(name, weight)
            if name == table:
                writer.write(head, weight)
    copy_rest(source, folder, None)
    settings = source.read_config()
    for part in (settings, settings.get("text_config")):
        if isinstance(part, dict):
            part["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder
