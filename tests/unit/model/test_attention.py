"""Attention that is ours or foreign: exactly that of eager, and what it cannot do is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.model.kernel_folder import FORWARD_ONLY, NAIVE, write_kernel
from tests.unit.train.steps import build_steps_trainer
from tests.unit.train.test_isolation import build_kind

from siredon.config.sections.attention import AttentionSection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.model.attention import check_attention, check_kind, register_attention
from siredon.model.precision import Precision
from siredon.model.varlen import Documents, build_attention
from siredon.train.isolation import find_leak

CPU = Hardware("cpu", "a CPU", 1, False, False, 1)
FP32 = Precision(torch.float32, None, False)


def naive(documents: Documents) -> torch.Tensor:
    """The kernel of the tests, without a folder."""
    scope: dict[str, Any] = {}
    exec(NAIVE, scope)
    starts = [
        torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        for lengths in (documents.query_lengths, documents.key_lengths)
    ]
    window = (-1, -1) if documents.window is None else (documents.window - 1, 0)
    return scope["flash_attn_varlen_func"](
        *(documents.query, documents.key, documents.value, *starts),
        max(documents.query_lengths),
        max(documents.key_lengths),
        softmax_scale=documents.scale,
        causal=True,
        window_size=window,
        softcap=documents.softcap or 0.0,
    )


@pytest.fixture(scope="module")
def naive_attention() -> str:
    """`xformers`, computed by the slow truth."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register("naive_documents", build_attention(naive, "naive"))
    AttentionMaskInterface.register("naive_documents", flash_attention_mask)
    return "naive_documents"


PACKED = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 0, 0, 1, 2]])
LEFT = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 10])
INPUTS: dict[str, dict[str, Any]] = {
    "packed": {"position_ids": PACKED},
    "plain": {},
    "padded-left": {"attention_mask": LEFT, "position_ids": (LEFT.cumsum(-1) - 1).clamp(min=0)},
    "padded-right": {"attention_mask": LEFT.flip(-1)},
}


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gemma2", "gemma3_text"])
def test_attention_over_documents_is_that_of_eager(kind: str, naive_attention: str):
    eager, ours = build_kind(kind), build_kind(kind, naive_attention)
    torch.manual_seed(1)
    ids = torch.randint(3, 128, (2, 10))
    for name, inputs in INPUTS.items():
        seen = inputs.get("attention_mask", torch.ones_like(ids)).bool()
        found = []
        for model in (eager, ours):
            model.zero_grad()
            logits = model(input_ids=ids, use_cache=False, **inputs).logits[seen]
            logits.square().sum().backward()
            found.append([logits.detach(), *(weight.grad for weight in model.parameters())])
        for wanted, got in zip(*found, strict=True):
            assert (wanted - got).abs().max() <= 2e-5 * wanted.abs().max(), name


def test_an_answer_is_that_of_eager_with_a_cache_and_padding(naive_attention: str):
    ids = torch.arange(3, 23).view(2, 10)
    answers = [
        build_kind("mistral", attention).generate(
            ids, attention_mask=LEFT, max_new_tokens=8, do_sample=False, eos_token_id=None
        )
        for attention in ("eager", naive_attention)
    ]
    assert torch.equal(*answers)


def test_documents_are_kept_apart_in_one_row_and_in_several(naive_attention: str):
    for kind in ("llama", "mistral"):
        for flatten in (False, True):
            model = build_kind(kind, naive_attention)
            assert find_leak(build_steps_trainer(model, flatten=flatten), 2) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_causal": False}, "attention in both directions"),
        ({"s_aux": torch.zeros(4)}, "attention sinks"),
        ({"position_bias": torch.zeros(1)}, "a bias of positions"),
        ({"mask": torch.ones(1, 1, 3, 3)}, "a mask of its own"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_kernel_over_documents_computes_is_refused(options: dict[str, Any], message: str):
    parts = (torch.randn(1, 4, 3, 8) for _ in range(3))
    mask = options.pop("mask", None)
    with pytest.raises(ModelError, match=message):
        build_attention(naive, "naive")(torch.nn.Identity(), *parts, mask, **{"is_causal": True, **options})


@pytest.mark.parametrize(
    ("kind", "message"),
    [("llama4_text", "sees chunks of a text"), ("codegen", "not built for kernels of flash attention")],
)
def test_a_kind_of_model_that_no_such_kernel_serves_is_refused(kind: str, message: str):
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    with torch.device("meta"):
        settings = CONFIG_MAPPING[kind](num_hidden_layers=1, n_layer=1, vocab_size=64)
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="eager")
    with pytest.raises(ModelError, match=message):
        check_kind(model, AttentionSection(attn_implementation="xformers"))
    check_kind(model, AttentionSection(attn_implementation="eager"))


@pytest.mark.skipif(find_spec("xformers") is None, reason="xformers is not installed")
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", [((3, 1, 6), (3, 1, 6)), ((1, 2), (5, 7))], ids=["equal", "cached"])
def test_the_mask_of_xformers_is_what_documents_say(window: int | None, lengths: Any):
    from siredon.model.xformers import build_mask

    queries, keys = lengths
    parts = [torch.zeros(sum(count), 2, 8) for count in (queries, keys, keys)]
    documents = Documents(*parts, queries, keys, 1.0, window, None, 0.0)
    seen = build_mask(documents).materialize((sum(queries), sum(keys))) == 0
    wanted = torch.zeros_like(seen)
    row = column = 0
    for num_queries, num_keys in zip(queries, keys, strict=True):
        for query in range(num_queries):
            last = query + num_keys - num_queries
            for key in range(num_keys):
                wanted[row + query, column + key] = key <= last and (window is None or key > last - window)
        row, column = row + num_queries, column + num_keys
    assert torch.equal(seen, wanted)


@pytest.fixture
def local_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels of the hub that lie in folders: `test/naive`, `test/forward`, `test/other`."""
    pytest.importorskip("kernels")
    from siredon.model.hub_kernel import load_kernel

    sources = {"naive": NAIVE, "forward": FORWARD_ONLY, "other": "def relu(x):\n    return x\n"}
    folders = {name: write_kernel(tmp_path / name, source) for name, source in sources.items()}
    places = ":".join(f"test/{name}={folder}" for name, folder in folders.items())
    monkeypatch.setenv("LOCAL_KERNELS", places)
    load_kernel.cache_clear()
    yield
    load_kernel.cache_clear()


def test_a_kernel_of_the_hub_computes_what_eager_does(local_kernels: None):
    section = AttentionSection(attn_implementation="test/naive")
    assert check_attention(section, FP32, CPU) == "test/naive"
    ids = torch.arange(3, 23).view(2, 10)
    for kind in ("mistral", "gemma2"):
        logits = [
            build_kind(kind, attention)(input_ids=ids, position_ids=PACKED, use_cache=False).logits
            for attention in ("eager", register_attention(section))
        ]
        assert (logits[0] - logits[1]).abs().max() <= 2e-5 * logits[0].abs().max()
    pinned = AttentionSection(attn_implementation="test/naive@main")
    assert check_attention(pinned, FP32, CPU) == "test/naive@main"


def test_a_kernel_that_cannot_do_it_is_refused_with_the_way_out(local_kernels: None):
    def run(name: str, kind: str) -> None:
        section = AttentionSection(attn_implementation=name)
        check_attention(section, FP32, CPU)
        build_kind(kind, register_attention(section))(input_ids=torch.arange(4)[None], use_cache=False)

    for name, kind, message in (
        ("test/forward", "llama", "has no backward pass"),
        ("test/forward", "gemma2", "has no `softcap`, which this model needs"),
        ("test/other", "llama", "is no attention: it has no `flash_attn_varlen_func`, only relu"),
        ("test/absent", "llama", "cannot be loaded by the package kernels"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            run(name, kind)
        assert f"`attn_implementation: {name}`" in str(caught.value)
        assert "Write `attn_implementation" in str(caught.value) or "sdpa" in str(caught.value)


def test_a_run_trains_by_a_kernel_of_the_hub_as_by_eager(
    local_kernels: None, write_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from tests.runs.test_train import config_of, metrics_of, weights_of

    from siredon import pipeline

    keys = {"sample_packing": True, "sequence_len": 64, "excess_length_strategy": "truncate", "max_steps": 1}
    for name in ("eager", "test/naive@main"):
        output = tmp_path / name.replace("/", "-")
        path = write_config(**keys, micro_batch_size=2, attn_implementation=name, output_dir=str(output))
        pipeline.train(config_of(path))
    assert "attention: test/naive@main" in capsys.readouterr().err
    ours = tmp_path / "test-naive@main"
    assert "hub_kernel" not in (ours / "config.json").read_text()
    assert metrics_of(ours)[0]["loss"] == pytest.approx(metrics_of(tmp_path / "eager")[0]["loss"], abs=1e-5)
    wanted, got = weights_of(tmp_path / "eager"), weights_of(ours)
    # The first step of Adam is the sign of the gradient: only a gradient of nearly zero may differ.
    assert all((wanted[name] - got[name]).abs().median() < 1e-6 for name in wanted)


def test_an_xformers_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch):
    from siredon.model.xformers import attend

    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    nothing: Any = None
    with pytest.raises(ModelError, match="xformers cannot be loaded"):
        attend(nothing)
