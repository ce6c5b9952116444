"""What the backward pass computes again, instead of keeping it: whole layers, some of them, or parts of them.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.config.sections.memory import MemorySection, SelectiveCheckpointing
from siredon.errors import ModelError
from siredon.model.kept_results import count_attention, keep_attention
from siredon.ops.recomputing import mark_recomputing
from siredon.registry import suggest

#: Opens what tensors are saved in.
Saving = Callable[[], AbstractContextManager[Any]]

#: Policy -> what a layer runs in, forward and again.
Contexts = Callable[[Callable[..., CheckpointPolicy]], tuple[Any, Any]]

#: What `attention` stands for: parts of the names of PyTorch's own fused attention, of flash-attn, flex and xformers.
_ATTENTION = (
    "dot_product",
    "flash_attn",
    "flex_attention",
    "efficient_attention",
    "varlen_attn",
    "xformers_flash",
)


def find_layers(model: torch.nn.Module) -> list[Any]:
    """The layers of a model of transformers that can be recomputed, in the order in which they run."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def choose_layers(num_layers: int, section: MemorySection) -> tuple[int, ...]:
    """Which layers are recomputed, evenly spread.

    A fraction f recomputes round(f * num_layers) of them, and at least one; every n-th layer begins with the first.
    """
    if section.gradient_checkpointing_every_n_layers is not None:
        return tuple(range(0, num_layers, section.gradient_checkpointing_every_n_layers))
    wanted = section.gradient_checkpointing
    if wanted == "auto":  # Until the plan is made
        return tuple(range(num_layers))
    if isinstance(wanted, bool):
        return tuple(range(num_layers)) if wanted else ()
    count = min(num_layers, max(1, round(wanted * num_layers)))
    return tuple(index * num_layers // count for index in range(count))


def recompute_first_(model: Any, count: int, keeping: int = 0) -> None:
    """Has the first `count` layers recomputed, and no other; after `recompute_activations_`.

    The last `keeping` of them keep what their attention gives, if the model's attention is one that can be kept.

    The first ones, as memory is fullest where the forward pass ends and the backward pass begins: the last layers then
    run backward without being computed again beside all that the others keep, and let go what they have kept before
    the first recomputed layer holds a layer's activations once more.
    """
    for index, layer in enumerate(find_layers(model)):
        layer.gradient_checkpointing = index < count
        run = layer._gradient_checkpointing_func
        if isinstance(run, Recomputed):
            run.keeps = count - keeping <= index < count


def count_keeping(model: Any) -> int:
    """How many layers keep what their attention gives."""
    runs = [
        layer._gradient_checkpointing_func for layer in find_layers(model) if layer.gradient_checkpointing
    ]
    return sum(isinstance(run, Recomputed) and run.keeps for run in runs)


class Recomputed:
    """How a layer of an automatic plan is run: all of it is computed again, or all but its attention.

    Args:
        whole: Runs a function on its inputs, as `torch.utils.checkpoint.checkpoint` does.
        keeping: The same, but for what `keep_attention` keeps.
    """

    def __init__(self, whole: Callable[..., Any], keeping: Callable[..., Any]) -> None:
        self.keeps = False
        self._whole = whole
        self._keeping = keeping

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What the function gives."""
        return (self._keeping if self.keeps else self._whole)(function, *inputs)


def count_kept_attention(model: Any, run: Callable[[], Any]) -> int:
    """Bytes that all layers of a forward pass would keep of their attention; 0 where none could, or none is told apart.

    Args:
        model: A model of transformers.
        run: The forward pass, whose layers keep nothing as yet.
    """
    runs = [layer._gradient_checkpointing_func for layer in find_layers(model)]
    if not any(isinstance(one, Recomputed) for one in runs):
        return 0
    return count_attention(Keeper(("attention",)).decide, run)


def recompute_activations_(
    model: Any,
    section: MemorySection,
    saving: Saving | None = None,
    contexts: Contexts = create_selective_checkpoint_contexts,
    *,
    compiles: bool = False,
) -> str:
    """Switches gradient checkpointing on, not reentrant unless the config says so.

    Args:
        model: A model of transformers.
        section: What is recomputed.
        saving: Opens what the inputs of recomputed layers are saved in; None saves them as autograd does.
        contexts: Keeps the results that the policy of `selective_checkpointing` names; default on the device.
        compiles: Layers will be compiled: their operations are not told in which pass they are.

    Returns:
        What is recomputed, for people; empty for nothing, and where `auto` is to choose: until then, all is.

    Raises:
        ModelError: The model cannot recompute, or not what the config names.
    """
    if not section.gradient_checkpointing:
        return ""
    options = {"use_reentrant": False, **section.gradient_checkpointing_kwargs}
    if not (compiles or options["use_reentrant"] or options.get("debug")):
        options["context_fn"] = mark_recomputing
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    except ValueError as error:
        raise ModelError(
            f"`gradient_checkpointing`: {type(model).__name__} cannot recompute its activations",
            "Remove `gradient_checkpointing`.",
        ) from error
    if options["use_reentrant"]:
        # Without an input that needs a gradient, reentrant checkpointing gives frozen layers none.
        model.enable_input_require_grads()
    layers = find_layers(model)
    chosen = choose_layers(len(layers), section)
    keeping = section.kept_results
    _check_choice(model, layers, section, saving)
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index in chosen
    keeper = Keeper(keeping.save) if keeping else None
    kept = _find_keeping(model, keeping, chosen) if keeping else ()
    for index in chosen if saving or keeper else ():
        kept_here = keeper if index in kept else None
        layers[index]._gradient_checkpointing_func = _build_function(options, kept_here, saving, contexts)
    if section.gradient_checkpointing == "auto":
        if "context_fn" in options and keeper is None and not _drops_in_attention(model):
            _let_attention_be_kept_(layers, options, saving)
        return ""  # The plan speaks for itself
    if len(chosen) == len(layers):
        shown = "every layer recomputed"
    else:
        shown = f"{len(chosen)} of {len(layers)} layers recomputed"
    return f"{shown}, but for {', '.join(keeping.save)} in {len(kept)} of them" if keeping else shown


class Keeper:
    """Decides, operation by operation, whether its results are kept.

    Args:
        names: `attention`, and names as PyTorch writes them: `aten.mm`, `aten::mm`, `aten.mm.default`, or `mm`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._waiting = {name: tuple(_spell(name)) for name in names}
        self._wanted = dict(self._waiting)
        self._seen: set[str] = set()

    def decide(self, context: Any, operation: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        """Keep or recompute; the arguments are those of a policy of `torch.utils.checkpoint`."""
        name = str(operation)
        self._seen.add(name)
        kept = CheckpointPolicy.PREFER_RECOMPUTE
        for wanted, spellings in self._wanted.items():
            if _matches(name, spellings):
                self._waiting.pop(wanted, None)
                kept = CheckpointPolicy.MUST_SAVE
        return kept

    def check(self) -> None:
        """After a layer has run: every name was met.

        Raises:
            ModelError: One was not; the message names those that exist.
        """
        if not self._waiting or not self._seen:
            return
        name = next(iter(self._waiting))
        words = sorted(word.rpartition(".")[0] or word for word in self._seen)
        raise ModelError(
            f"`selective_checkpointing.save: {name}`: no layer of this model runs an operation of that name",
            f"{suggest(name, words)}Its layers run: {', '.join(dict.fromkeys(words))}.",
        )


def _spell(name: str) -> Iterator[str]:
    plain = name.replace("::", ".")
    yield plain
    if "." not in plain:
        yield f"aten.{plain}"


def _matches(operation: str, spellings: Sequence[str]) -> bool:
    if "attention" in spellings:
        return any(part in operation for part in _ATTENTION)
    return operation in spellings or operation.rpartition(".")[0] in spellings


def _check_choice(model: Any, layers: list[Any], section: MemorySection, saving: Saving | None) -> None:
    chooses = section.kept_results or saving or section.gradient_checkpointing_every_n_layers
    if not layers and (chooses or section.gradient_checkpointing is not True):
        raise ModelError(
            f"{type(model).__name__} has no layers among which to choose: it recomputes all of them, or none",
            "Write `gradient_checkpointing: true`, without further settings.",
        )
    if section.kept_results and _drops_in_attention(model):
        # A kept result draws no random numbers when the rest is recomputed: later dropout would draw others.
        raise ModelError(
            "`selective_checkpointing` keeps the results of attention, whose dropout could not be drawn again",
            "Add `model_config: {attention_dropout: 0}`, or remove `selective_checkpointing`.",
        )


def _drops_in_attention(model: Any) -> bool:
    return bool(model.config.get_text_config().to_dict().get("attention_dropout"))


def _let_attention_be_kept_(layers: list[Any], options: dict[str, Any], saving: Saving | None) -> None:
    """A plan can choose, layer by layer, that what attention gives is kept."""
    contexts = partial(keep_attention, Keeper(("attention",)).decide)
    keeping = _in_saving(
        partial(checkpoint, **{**options, "context_fn": partial(mark_recomputing, contexts)}), saving
    )
    for layer in layers:
        layer._gradient_checkpointing_func = Recomputed(layer._gradient_checkpointing_func, keeping)


def _in_saving(run: Callable[..., Any], saving: Saving | None) -> Callable[..., Any]:
    def run_layer(function: Callable[..., Any], *inputs: Any) -> Any:
        assert saving is not None
        with saving():
            return run(function, *inputs)

    return run if saving is None else run_layer


def _find_keeping(model: Any, section: SelectiveCheckpointing, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """The recomputed layers of which results are kept."""
    settings = model.config.get_text_config().to_dict()
    types = settings.get("layer_types") or []
    if not types and settings.get("sliding_window") and settings.get("use_sliding_window", True):
        types = ["sliding_attention"] * model.config.get_text_config().num_hidden_layers
    unknown = sorted(set(section.recompute_layer_types or ()) - set(types))
    if unknown:
        known = sorted(set(types))
        raise ModelError(
            f"`selective_checkpointing.recompute_layer_types: {unknown[0]}` is no type of layer of this model",
            f"{suggest(unknown[0], known)}Types: {', '.join(known) or 'it has one type only'}.",
        )
    whole = set(section.recompute_layer_types or ())
    if not section.save_sliding_window:
        whole.add("sliding_attention")
    if len(types) != len(find_layers(model)):  # layers of an image encoder stand before those of the text
        types = []
    return tuple(index for index in chosen if not types or types[index] not in whole)


def _build_function(
    options: dict[str, Any], keeper: Keeper | None, saving: Saving | None, contexts: Contexts
) -> Callable[..., Any]:
    """What a layer is run by: `checkpoint`, with what it keeps and what its inputs are saved in."""
    run: Callable[..., Any] = partial(checkpoint, **options)
    if keeper is not None:
        keeping = partial(contexts, keeper.decide)
        marks = "context_fn" in options
        run = partial(run, context_fn=partial(mark_recomputing, keeping) if marks else keeping)
    if keeper is None and saving is None:
        return run

    def run_layer(function: Callable[..., Any], *inputs: Any) -> Any:
        if saving is None:
            result = run(function, *inputs)
        else:
            with saving():
                result = run(function, *inputs)
        if keeper is not None:
            keeper.check()
        return result

    return run_layer
