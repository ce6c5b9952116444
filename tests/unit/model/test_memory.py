"""Memory traded for time: the same gradients, less kept, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.memory import MemorySection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.model.adapt import attach_adapter_
from siredon.model.compile import compile_layers_
from siredon.model.kept_results import park_results
from siredon.model.offload import DiskPark, RamPark, Saver, park_activations_, park_layers_
from siredon.model.recompute import Keeper, choose_layers, find_layers, recompute_activations_
from siredon.ops.recomputing import is_recomputing

CPU = Hardware("cpu", "test", 1, False, False, 1)
NUM_LAYERS = 4
Gradients = dict[str, torch.Tensor]
Change = Callable[[Any, Any, Path], object]


def build(
    adapter: bool, targets: tuple[str, ...] = (), dropout: float = 0.2, **settings: Any
) -> tuple[Any, Any]:
    """A Llama in fp32, and what is trained of it: all, or LoRA with dropout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": NUM_LAYERS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**{**sizes, **heads, "initializer_range": 0.2, **settings})
    base = LlamaForCausalLM(config).train()
    if not adapter:
        return base, base
    where: dict[str, Any] = {"lora_target_modules": targets} if targets else {"lora_target_linear": True}
    section = AdapterSection(adapter="lora", lora_r=4, lora_alpha=8, lora_dropout=dropout, **where)
    model = attach_adapter_(base, section, seed=1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model, base


def backward(model: Any, *, num_passes: int = 2, device: torch.device | None = None) -> Gradients:
    """Gradients of two passes, of two lengths, with the same random numbers each time."""
    torch.manual_seed(7)
    for length in (24, 17)[:num_passes]:
        ids = torch.randint(0, 128, (2, length)).to(device or "cpu")
        logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def recompute(model: Any, base: Any, folder: Path, **settings: Any) -> str:
    return recompute_activations_(
        base, MemorySection(gradient_checkpointing=True).model_copy(update=settings)
    )


def park(
    model: Any, base: Any, folder: Path, *, disk: bool = False, inputs: bool = False, **settings: Any
) -> None:
    place: Any = DiskPark(folder / "parked") if disk else RamPark(None, pinned=False)
    saver = Saver(place, model, "cpu", smallest_bytes=1)
    if settings or inputs:
        section = MemorySection(gradient_checkpointing=True, **settings)
        recompute_activations_(base, section, saver.open if inputs else None)
    if not inputs:
        park_activations_(model, saver)


def park_kept(model: Any, base: Any, folder: Path, *, inputs: bool = False) -> None:
    """Attention, and all products of a layer, which have to come back in their order."""
    place = RamPark(None, pinned=False)
    contexts = partial(park_results, park=place, device="cpu", smallest_bytes=1)
    kept = {"save": ["attention", "aten.mm"]}
    section = MemorySection(gradient_checkpointing=True, selective_checkpointing=kept)
    saver = Saver(place, model, "cpu", smallest_bytes=1)
    recompute_activations_(base, section, saver.open if inputs else None, contexts)


def park_layers(model: Any, base: Any, folder: Path, *, recomputes: bool = False) -> None:
    if recomputes:
        recompute(model, base, folder)
    park_layers_(model, base, torch.device("cpu"), None)


REENTRANT = {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
KEEPING = {"selective_checkpointing": True}
VARIANTS: dict[str, Change] = {
    "recomputed": recompute,
    "reentrant": partial(recompute, **REENTRANT),
    "half": partial(recompute, gradient_checkpointing=0.5),
    "every-third": partial(recompute, gradient_checkpointing_every_n_layers=3),
    "attention-kept": partial(recompute, **KEEPING),
    "ram": park,
    "ram-recomputed": partial(park, gradient_checkpointing_kwargs={"use_reentrant": False}),
    "ram-reentrant": partial(park, **REENTRANT),
    "disk": partial(park, disk=True, gradient_checkpointing_kwargs={"use_reentrant": False}),
    "attention-elsewhere": park_kept,
    "inputs-attention-elsewhere": partial(park_kept, inputs=True),
    "inputs": partial(park, inputs=True),
    "inputs-reentrant": partial(park, inputs=True, **REENTRANT),
    "inputs-attention-kept": partial(park, inputs=True, **KEEPING),
    "layers": park_layers,
    "layers-recomputed": partial(park_layers, recomputes=True),
}


@pytest.fixture(scope="module")
def plain() -> dict[bool, Gradients]:
    """Gradients with everything kept."""
    return {adapter: backward(build(adapter)[0]) for adapter in (False, True)}


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_a_model_that_keeps_everything(
    variant: str, adapter: bool, plain: dict[bool, Gradients], tmp_path: Path
):
    if variant.startswith("layers") and not adapter:
        pytest.skip("every weight is trained: there is none to move")
    model, base = build(adapter)
    VARIANTS[variant](model, base, tmp_path)
    found = backward(model)
    wanted = plain[adapter]
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max(), name


# What is kept, and what is computed again


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts calls of fused attention."""

    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += "dot_product" in str(func) and "backward" not in str(func)
        return func(*args, **(kwargs or {}))


def count_attention(**settings: Any) -> tuple[int, int]:
    """How often attention is computed in a forward pass, and in its backward pass."""
    model, base = build(False)
    recompute(model, base, Path(), **settings)
    ids = torch.arange(48).view(2, 24)
    with Calls() as forward:
        loss = model(input_ids=ids, use_cache=False).logits.sum()
    with Calls() as backward:
        loss.backward()
    return forward.num, backward.num


@pytest.mark.parametrize(
    ("settings", "again"),
    [
        ({"gradient_checkpointing": False}, 0),
        ({}, NUM_LAYERS),
        ({"gradient_checkpointing": 0.5}, 2),
        ({"gradient_checkpointing": 0.01}, 1),
        ({"gradient_checkpointing_every_n_layers": 3}, 2),
        (KEEPING, 0),
    ],
)
def test_as_many_layers_are_computed_again_as_asked(settings: dict[str, Any], again: int):
    assert count_attention(**settings) == (NUM_LAYERS, again)


@pytest.mark.parametrize(
    ("num_layers", "fraction", "chosen"),
    [(4, 0.5, (0, 2)), (7, 0.4, (0, 2, 4)), (3, 0.99, (0, 1, 2)), (5, 0.01, (0,)), (1, 0.2, (0,))],
)
def test_a_fraction_is_spread_evenly(num_layers: int, fraction: float, chosen: tuple[int, ...]):
    assert choose_layers(num_layers, MemorySection(gradient_checkpointing=fraction)) == chosen


def test_attention_in_a_window_is_computed_again_unless_asked():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    def keeping(**block: Any) -> str:
        config = Qwen2Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=3,
        )
        section = MemorySection(gradient_checkpointing=True, selective_checkpointing=block)
        return recompute_activations_(Qwen2ForCausalLM(config), section)

    assert keeping() == "every layer recomputed, but for attention in 3 of them"
    assert keeping(save_sliding_window=True) == "every layer recomputed, but for attention in 4 of them"
    whole = keeping(save_sliding_window=True, recompute_layer_types=["full_attention"])
    assert whole == "every layer recomputed, but for attention in 1 of them"
    with pytest.raises(ModelError, match="full_atention` is no type of layer") as caught:
        keeping(recompute_layer_types=["full_atention"])
    assert "Did you mean `full_attention`" in caught.value.fix


def test_an_operation_that_no_layer_runs_is_refused_with_those_that_there_are():
    model, base = build(False)
    recompute(
        model,
        base,
        Path(),
        selective_checkpointing=MemorySection(
            selective_checkpointing={"save": ["attention", "mmm"]}
        ).kept_results,
    )
    with pytest.raises(ModelError, match="save: mmm`: no layer") as caught:
        backward(model)
    assert "aten.mm," in caught.value.fix


@pytest.mark.parametrize("name", ["mm", "aten.mm", "aten::mm", "aten.mm.default"])
def test_an_operation_goes_by_each_of_its_names(name: str):
    from torch.utils.checkpoint import CheckpointPolicy

    keeper = Keeper([name])
    assert keeper.decide(None, torch.ops.aten.mm.default) is CheckpointPolicy.MUST_SAVE
    assert keeper.decide(None, torch.ops.aten.bmm.default) is CheckpointPolicy.PREFER_RECOMPUTE
    keeper.check()


def test_a_model_whose_attention_drops_keeps_none_of_it():
    model, base = build(False, attention_dropout=0.1)
    with pytest.raises(ModelError, match="dropout could not be drawn again"):
        recompute(model, base, Path(), **KEEPING)


# What waits elsewhere


class CountingPark(RamPark):
    num_packed = 0

    def pack(self, tensor: torch.Tensor) -> Any:
        self.num_packed += 1
        return super().pack(tensor)


def test_the_inputs_of_recomputed_layers_wait_and_nothing_else():
    model, base = build(False)
    place = CountingPark(None, pinned=False)
    saver = Saver(place, model, "cpu", smallest_bytes=1)
    recompute_activations_(base, MemorySection(gradient_checkpointing=True), saver.open)
    backward(model, num_passes=1)
    assert place.num_packed == NUM_LAYERS


def test_kept_results_wait_and_are_not_computed_again():
    model, base = build(False)
    place = CountingPark(None, pinned=False)
    contexts = partial(park_results, park=place, device="cpu", smallest_bytes=1024)
    recompute_activations_(base, MemorySection(gradient_checkpointing=True, **KEEPING), None, contexts)
    loss = model(input_ids=torch.arange(48).view(2, 24), use_cache=False).logits.sum()
    assert place.num_packed == NUM_LAYERS  # the output of attention, not what is kept of its softmax
    with Calls() as again:
        loss.backward()
    assert (again.num, place.num_packed) == (0, NUM_LAYERS)


def test_weights_and_small_tensors_stay_and_the_hooks_can_be_taken_back():
    model, _ = build(False)
    place = CountingPark(None, pinned=False)
    backward(model, num_passes=1)
    undo = park_activations_(model, Saver(place, model, "cpu", smallest_bytes=10**6))
    backward(model, num_passes=1)
    assert place.num_packed == 0
    undo()
    undo = park_activations_(model, Saver(place, model, "cpu", smallest_bytes=1))
    with torch.no_grad():
        model(input_ids=torch.arange(8)[None], use_cache=False)
    assert place.num_packed == 0
    model(input_ids=torch.arange(8)[None], use_cache=False)
    assert place.num_packed > NUM_LAYERS
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    packed: list[int] = []
    place.pack = lambda tensor: packed.append(tensor.untyped_storage().data_ptr()) or tensor
    place.unpack = lambda tensor: tensor
    backward(model, num_passes=1)
    assert not weights & set(packed)
    undo()
    number = len(packed)
    backward(model, num_passes=1)
    assert len(packed) == number > 0


def test_files_of_activations_go_when_they_were_used_and_the_folder_at_the_end(tmp_path: Path):
    model, _ = build(False)
    folder = tmp_path / "parked"
    folder.mkdir()
    (folder / "left-by-a-run-that-died.bin").write_text("x")
    place = DiskPark(folder)
    undo = park_activations_(model, Saver(place, model, "cpu", smallest_bytes=1))
    loss = model(input_ids=torch.arange(8)[None], use_cache=False).logits.sum()
    names = {path.name for path in folder.iterdir()}
    assert len(names) > NUM_LAYERS
    assert "left-by-a-run-that-died.bin" not in names
    loss.backward()
    del loss
    assert list(folder.iterdir()) == []
    undo()
    del place, undo
    import gc

    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_what_was_parked_is_the_same_bit_for_bit(dtype: torch.dtype, tmp_path: Path):
    tensor = torch.randn(3, 5, 7).mul(9).to(dtype).transpose(0, 2)
    for place in (RamPark(None, pinned=False), DiskPark(tmp_path / "parked")):
        again = place.unpack(place.pack(tensor))
        assert again.dtype == dtype
        assert torch.equal(again, tensor)


def test_frozen_weights_are_gone_between_their_turns():
    model, base = build(True)
    said = park_layers_(model, base, torch.device("cpu"), None)
    assert "GiB of frozen weights wait in RAM" in said

    def held() -> list[bool]:
        layers = [layer.mlp.up_proj.base_layer.weight for layer in find_layers(base)]
        return [weight.untyped_storage().nbytes() > 0 for weight in layers]

    counts: list[int] = []
    for layer in find_layers(base):
        layer.mlp.register_forward_hook(lambda *_: counts.append(sum(held())))
    assert held() == [False] * NUM_LAYERS
    loss = model(input_ids=torch.arange(8)[None], use_cache=False).logits.sum()
    assert held() == [False] * NUM_LAYERS
    loss.backward()
    assert held() == [True, False, False, False]
    assert max(counts) == 2
    assert model.get_input_embeddings().weight.untyped_storage().nbytes() > 0
    with torch.no_grad():
        model(input_ids=torch.arange(8)[None], use_cache=False)
    assert held() == [False] * NUM_LAYERS


def test_a_model_that_is_trained_whole_has_no_layer_to_move():
    model, base = build(False)
    with pytest.raises(ModelError, match="no layers with frozen weights"):
        park_layers_(model, base, torch.device("cpu"), None)


# Compiling


#: The compiler hides this one itself, unless warnings are errors.
quiet = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.mark.long
@quiet
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora-recomputed"])
def test_compiled_layers_have_the_same_gradients_and_names(adapter: bool):
    torch.compiler.reset()
    wanted = backward(build(adapter, targets=("q_proj",))[0])
    model, base = build(adapter, targets=("q_proj",))
    names = list(model.state_dict())
    if adapter:
        recompute_activations_(base, MemorySection(gradient_checkpointing=True), compiles=True)
    section = CompileSection(torch_compile=True, torch_compile_backend="aot_eager")
    assert compile_layers_(base, section, CPU) == "4 layers compiled by aot_eager"
    found = backward(model)
    assert list(model.state_dict()) == names
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


@quiet
def test_lengths_of_packs_do_not_compile_anew_each_time():
    torch.compiler.reset()
    model, base = build(False)
    graphs: list[Any] = []

    def compiler(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for layer in find_layers(base):
        layer.compile(backend=compiler)
    for length in (12, 17, 23, 30, 9):
        ids = torch.arange(length)[None]
        positions = torch.cat([torch.arange(5), torch.arange(length - 5)])[None]
        model(input_ids=ids, position_ids=positions, use_cache=False).logits.sum().backward()
    assert len(graphs) <= 4


def test_a_compiler_that_does_not_exist_is_refused():
    section = CompileSection(torch_compile=True, torch_compile_backend="inducter")
    with pytest.raises(ModelError, match="`torch_compile_backend: inducter` is no compiler") as caught:
        compile_layers_(build(False)[1], section, CPU)
    assert "Did you mean `inductor`" in caught.value.fix


def test_a_cpu_without_a_compiler_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelError, match="needs a C"):
        compile_layers_(build(False)[1], CompileSection(torch_compile=True), CPU)


def test_auto_compiles_on_a_gpu_only_and_says_so():
    assert "not compiled" in compile_layers_(build(False)[1], CompileSection(torch_compile="auto"), CPU)
    assert compile_layers_(build(False)[1], CompileSection(), CPU) == ""


class Told(torch.nn.Module):
    """Writes down in which pass its layer is."""

    def __init__(self, inner: torch.nn.Module, passes: list[bool]) -> None:
        super().__init__()
        self.inner = inner
        self.passes = passes

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        self.passes.append(is_recomputing())
        return self.inner(*values)


@pytest.mark.parametrize(
    ("settings", "again"),
    [
        ({}, [True]),
        (KEEPING, [True]),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, [False]),
    ],
)
def test_layers_know_that_they_run_again(settings: dict[str, Any], again: list[bool]):
    _, base = build(adapter=False)
    passes: list[bool] = []
    base.model.layers[1].mlp = Told(base.model.layers[1].mlp, passes)
    recompute_activations_(base, MemorySection(gradient_checkpointing=True, **settings))
    backward(base, num_passes=1)
    assert passes == [False, *again]


@quiet
def test_compiled_layers_are_not_told():
    torch.compiler.reset()
    _, base = build(adapter=False)
    recompute_activations_(base, MemorySection(gradient_checkpointing=True), compiles=True)
    compile_layers_(base, CompileSection(torch_compile=True, torch_compile_backend="aot_eager"), CPU)
    assert backward(base, num_passes=1)
