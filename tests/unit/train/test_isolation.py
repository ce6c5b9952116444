"""Which attention and which kinds of model keep documents apart, and that a leak of any kind is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.steps import build_steps_trainer

from siredon.errors import ModelError
from siredon.train.isolation import check_isolation, find_leak

SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 4}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": WINDOW,
    "gemma2": MIXED,
    "gemma3_text": MIXED,
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_oss": {**MIXED, **EXPERTS},
    "mixtral": EXPERTS,
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "falcon_h1": MAMBA,
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8, "expand": 2},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "use_mamba_kernels": False,
        "mamba_dt_rank": 4,
        "mamba_d_state": 8,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
}
ISOLATES = ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3", "gpt2", "mixtral", "qwen3_moe"]
#: States that are carried from token to token, or masks that are made without positions.
LEAKS = ["falcon_h1", "jamba", "lfm2", "opt"]


def build_kind(kind: str, attention: str = "eager", **sizes: Any) -> Any:
    """A tiny model of a kind, with random weights that are large enough for tokens to matter."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**SIZES, **SETTINGS[kind], **sizes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def leak_of(model: Any, num_packs: int = 2, *, flatten: bool = False, gradients: bool = True) -> str | None:
    return find_leak(build_steps_trainer(model, flatten=flatten), num_packs, gradients=gradients)


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        *((kind, "eager") for kind in [*ISOLATES, "gemma2"]),
        *((kind, "sdpa") for kind in ISOLATES),
    ],
)
@pytest.mark.parametrize("flatten", [False, True])
def test_documents_are_kept_apart(kind: str, attention: str, flatten: bool):
    for num_packs in (1, 3):
        assert leak_of(build_kind(kind, attention), num_packs, flatten=flatten) is None


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        *((kind, "eager") for kind in [*LEAKS, "gpt_oss", "mamba2", "bloom"]),
        *((kind, "sdpa") for kind in LEAKS),
    ],
)
def test_a_kind_of_model_that_lets_documents_see_each_other_is_refused(kind: str, attention: str):
    trainer = build_steps_trainer(build_kind(kind, attention))
    with pytest.raises(ModelError, match=rf"type {kind} .*see each other") as caught:
        check_isolation(trainer, attention)
    assert "`sample_packing: false`" in str(caught.value.fix)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "mixtral"])
def test_flex_attention_keeps_documents_apart_as_far_as_a_cpu_can_run_it(kind: str):
    # Compiled for a CPU it takes long, and is wrong for fixed lengths that are no multiple of 128 (torch 2.13).
    with torch.compiler.set_stance("force_eager"):
        assert leak_of(build_kind(kind, "flex_attention"), gradients=False) is None
        assert leak_of(build_kind("opt", "flex_attention"), gradients=False) is not None


def test_a_document_is_no_bit_different_for_another_neighbour_and_for_no_neighbour_but_rounding():
    model = build_kind("mistral", "sdpa").eval()
    first, middle, last = (torch.randint(10, 120, (length,)) for length in (9, 11, 7))
    other = middle.clone()
    other[-1] += 1

    def logits(*documents: torch.Tensor) -> torch.Tensor:
        positions = torch.cat([torch.arange(len(document)) for document in documents])
        ids = torch.cat(documents)
        output = model(input_ids=ids[None], position_ids=positions[None], use_cache=False)
        return output.logits[0].detach()

    before, after = logits(first, middle, last), logits(first, other, last)
    assert torch.equal(before[:19], after[:19])
    assert not torch.equal(before[19], after[19])
    assert torch.equal(before[20:], after[20:])
    assert (before[20:] - logits(last)).abs().max() < 1e-5


# A leak of each kind, in a model that has none


def leaking(change: Any) -> Any:
    """A Llama whose last hidden states, [B, T, H], are changed in passing."""
    model = build_model()
    model.model.register_forward_hook(
        lambda module, inputs, output: output.__setitem__("last_hidden_state", change(output[0])) or output
    )
    return model


def test_a_trace_of_the_document_before_is_seen():
    leak = leak_of(leaking(lambda hidden: hidden + 1e-5 * hidden.cumsum(dim=1)))
    assert leak is not None
    assert "moved its neighbours' logits" in leak


def test_a_trace_of_another_row_of_the_batch_is_seen():
    mixing = leaking(lambda hidden: hidden + 1e-5 * hidden.flip(0)[:, :1] * (len(hidden) > 1))
    assert leak_of(mixing, 1) is None
    assert leak_of(mixing, 2) is not None


def test_a_gradient_that_reaches_a_neighbour_is_seen_where_its_value_does_not():
    leak = leak_of(leaking(lambda hidden: hidden + 1e-3 * (hidden.roll(9, 1) - hidden.roll(9, 1).detach())))
    assert leak is not None
    assert "gradient" in leak


def test_a_document_that_is_another_in_a_pack_is_seen():
    leak = leak_of(leaking(lambda hidden: hidden * torch.arange(1, hidden.shape[1] + 1)[None, :, None]))
    assert leak is not None
    assert "alone" in leak


def test_experts_may_round_otherwise_but_pass_no_gradient_on():
    model = build_kind("mixtral")
    noise = torch.Generator().manual_seed(0)
    model.model.register_forward_hook(
        lambda module, inputs, output: (
            output.__setitem__(
                "last_hidden_state", output[0] * (1 + 1e-6 * torch.rand(output[0].shape, generator=noise))
            )
            or output
        )
    )
    assert leak_of(model) is None
    model.config.num_local_experts = 1
    assert leak_of(model) is not None
    model.config.num_local_experts = 4
    model.model.norm.register_forward_hook(lambda module, inputs, output: output + 1e-4 * output.roll(9, 1))
    assert leak_of(model) is not None


def test_logits_that_are_no_numbers_do_not_pass():
    leak = leak_of(leaking(lambda hidden: hidden * float("nan")))
    assert leak is not None
    assert "logits by nan" in leak


# Attention that reads borders off a single row


def single_row_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
    """What flash attention does in transformers: no mask; documents by positions, in a batch of one row only."""
    positions = options["position_ids"]
    causal = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    if query.shape[0] == 1:
        document = (positions[0] == 0).cumsum(0)
        causal = causal & (document[:, None] == document[None, :])
    repeat = query.shape[1] // key.shape[1]
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1), attn_mask=causal
    )
    return found.transpose(1, 2).contiguous(), None


@pytest.fixture
def single_row_model() -> Any:
    from transformers import AttentionInterface

    AttentionInterface.register("single_row", single_row_attention)
    model = build_model()
    model.set_attn_implementation("single_row")
    return model


def test_attention_that_sees_borders_in_a_single_row_only_is_refused_for_a_batch(single_row_model: Any):
    assert leak_of(single_row_model, 1) is None
    assert leak_of(single_row_model, 2) is not None
    assert leak_of(single_row_model, 2, flatten=True) is None


@pytest.mark.parametrize("keys", [{"micro_batch_size": 2}, {"micro_batch_size": 1, "eval_batch_size": 2}])
def test_the_check_takes_the_batch_sizes_of_the_run(single_row_model: Any, keys: dict[str, int]):
    trainer = build_steps_trainer(single_row_model, **keys)
    with pytest.raises(ModelError) as caught:
        check_isolation(trainer, "single_row")
    assert "`multipack_real_batches: false`" in str(caught.value.fix)
    check_isolation(build_steps_trainer(single_row_model), "single_row")


# What the check leaves behind


def test_the_check_changes_nothing():
    from siredon.config.sections.adapter import AdapterSection
    from siredon.config.sections.memory import MemorySection
    from siredon.model.adapt import attach_adapter_
    from siredon.model.recompute import recompute_activations_

    model = build_model()
    recompute_activations_(model, MemorySection(gradient_checkpointing=True))
    section = AdapterSection(adapter="lora", lora_r=4, lora_alpha=8, lora_target_linear=True)
    adapted = attach_adapter_(model, section, seed=1)
    trainer = build_steps_trainer(adapted)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    num_hooks = len(adapted.get_input_embeddings()._forward_hooks)
    state = torch.get_rng_state()
    check_isolation(trainer, "sdpa")
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    assert all(parameter.grad is None for parameter in adapted.parameters())
    assert len(adapted.get_input_embeddings()._forward_hooks) == num_hooks
    assert torch.equal(torch.get_rng_state(), state)
    assert adapted.training
