"""Adapters on other models than Llama, their gradients, and names that a model does not have."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.config.sections.adapter import AdapterSection
from siredon.errors import CheckpointError, ModelError
from siredon.model.adapt import attach_adapter_
from siredon.model.adapter_folder import load_adapter, merge_into
from siredon.model.loftq import ROUNDED, round_to_4bit

LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8}
IDS = torch.arange(20, 68).reshape(2, 24)
SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def lora(**keys: Any) -> AdapterSection:
    return AdapterSection(**{**LORA, "lora_target_modules": ("q_proj", "down_proj"), **keys})


def build(kind: str) -> Any:
    """A tiny model with random weights, always the same."""
    import transformers as hub

    torch.manual_seed(0)
    if kind == "llama":
        return build_model(128)
    if kind == "qwen3_moe":
        more = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
        return hub.Qwen3MoeForCausalLM(hub.Qwen3MoeConfig(**SMALL, intermediate_size=48, **more))
    if kind == "gpt_oss":
        more = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
        return hub.GptOssForCausalLM(hub.GptOssConfig(**SMALL, intermediate_size=16, **more))
    if kind == "mixtral":
        return hub.MixtralForCausalLM(hub.MixtralConfig(**SMALL, intermediate_size=16, num_local_experts=4))
    if kind == "qwen2":
        return hub.Qwen2ForCausalLM(hub.Qwen2Config(**SMALL, intermediate_size=48))
    return hub.GPT2LMHeadModel(hub.GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=2, n_positions=64))


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def step(model: Any, num_steps: int = 2) -> Any:
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    model.train()
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return model


EXPERTS = {"lora_target_parameters": ("experts.gate_up_proj", "experts.down_proj"), "lora_target_modules": ()}


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("qwen3_moe", EXPERTS),
        ("gpt_oss", {**EXPERTS, "lora_target_modules": ("q_proj",)}),
        ("mixtral", {**EXPERTS, "peft_layers_to_transform": (1,), "peft_init_lora_weights": "gaussian"}),
        ("qwen2", {"lora_bias": "all", "lora_target_modules": ("q_proj",)}),
        ("qwen2", {"lora_bias": "lora_only", "lora_target_modules": ("q_proj",)}),
        ("gpt2", {"lora_target_modules": ("c_attn",), "peft_init_lora_weights": "gaussian"}),
        ("gpt2", {"lora_target_modules": (), "lora_target_linear": True, "lora_fan_in_fan_out": True}),
    ],
    ids=str,
)
def test_other_layers_are_adapted_saved_loaded_and_merged(kind: str, keys: dict[str, Any], tmp_path: Path):
    section = lora(**keys)
    model = step(attach_adapter_(build(kind), section, seed=0))
    expected, base = logits_of(model), build(kind)
    weights = dict(base.named_parameters())
    for name, weight in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if plain in weights:
            assert torch.equal(weight, weights[plain]) != weight.requires_grad, name
            assert not weight.requires_grad or plain.endswith("bias")
    model.save_pretrained(tmp_path)
    loaded = load_adapter(build(kind), tmp_path)
    torch.testing.assert_close(logits_of(loaded), expected, rtol=0, atol=1e-6)
    merged = merge_into(loaded.get_base_model(), loaded)
    torch.testing.assert_close(logits_of(merged), expected, rtol=0, atol=1e-5)
    for name in section.lora_target_parameters or ():
        for full, weight in merged.named_parameters():
            block = section.peft_layers_to_transform
            if full.endswith(name) and (block is None or f".{block[0]}." in full):
                assert (weight != weights[full]).flatten(1).any(dim=1).sum() >= 2, full  # of several experts


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputing_activations_changes_no_gradient(reentrant: bool):
    def gradients(*, recomputes: bool) -> dict[str, torch.Tensor]:
        base = build("llama")
        if recomputes:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            if reentrant:
                base.enable_input_require_grads()
        model = attach_adapter_(base, lora(peft_init_lora_weights=False), seed=0).train()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}

    plain, again = gradients(recomputes=False), gradients(recomputes=True)
    assert len(plain) == 8
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=1e-6)


def test_adapters_of_a_16_bit_base_are_fp32_unless_they_shall_not_be():
    for wanted, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        section = lora(
            peft_autocast_adapter_dtype=wanted,
            lora_bias="all",
            lora_modules_to_save=("norm",),
            peft_use_dora=True,
        )
        model = attach_adapter_(build("qwen2").to(torch.bfloat16), section, seed=0)
        assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {dtype}


ATTENTION, FEED_FORWARD = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
BLOCK = [*(f"self_attn.{name}" for name in ATTENTION), *(f"mlp.{name}" for name in FEED_FORWARD)]


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"lora_target_linear": True}, {0: BLOCK, 1: BLOCK}),
        ({"lora_target_modules": ("all-linear",)}, {0: BLOCK, 1: BLOCK}),
        ({"lora_target_modules": ("self_attn.q_proj",)}, {0: BLOCK[:1], 1: BLOCK[:1]}),
        ({"lora_target_modules": (r"self_attn\.[qk]_proj",)}, {0: BLOCK[:2], 1: BLOCK[:2]}),
        ({"lora_target_modules": (r"model\.layers\.1\..*_proj",)}, {0: [], 1: BLOCK}),
        ({"lora_target_modules": (r"[qk]", "up_proj")}, "matches no layer"),
        ({"lora_target_linear": True, "peft_layers_to_transform": (1,)}, {0: [], 1: BLOCK}),
        (
            {
                "lora_target_linear": True,
                "peft_layers_to_transform": (0,),
                "peft_layers_pattern": ("layers",),
            },
            {0: BLOCK, 1: []},
        ),
        ({"lora_target_linear": True, "lora_exclude_modules": ("mlp.*",)}, {0: BLOCK[:4], 1: BLOCK[:4]}),
        ({"lora_target_linear": True, "lora_modules_to_save": ("mlp",)}, {0: BLOCK[:4], 1: BLOCK[:4]}),
    ],
    ids=str,
)
def test_the_layers_that_are_named_are_adapted_and_no_other(keys: dict[str, Any], wanted: Any):
    from peft.tuners.lora import LoraLayer

    section = lora(**{"lora_target_modules": (), **keys})
    if isinstance(wanted, str):
        with pytest.raises(ModelError, match=wanted):
            attach_adapter_(build("llama"), section, seed=0)
        return
    model = attach_adapter_(build("llama"), section, seed=0).get_base_model()
    adapted = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    assert adapted == {f"model.layers.{number}.{name}" for number, names in wanted.items() for name in names}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora_target_modules": ("q_prog",)}, r"matches no layer(.|\n)*Did you mean `q_proj`\?"),
        ({"lora_target_modules": (r"self_attn\.z.*",)}, "matches no layer"),
        ({"lora_exclude_modules": ("k_proj",)}, "`lora_exclude_modules: k_proj` matches no layer"),
        ({"lora_modules_to_save": ("head",)}, "`lora_modules_to_save: head` matches no layer"),
        ({"lora_rank_pattern": {"k_proj": 8}}, r"`lora_rank_pattern: k_proj` fits no layer(.|\n)*q_proj"),
        ({"lora_alpha_pattern": {"layers.7.*": 8}}, "`lora_alpha_pattern: layers.7.*` fits no layer"),
        ({"peft_layers_to_transform": (0, 2)}, r"block 2\n(.|\n)*0, 1"),
        (
            {"peft_layers_to_transform": (0,), "peft_layers_pattern": ("blocks",)},
            "`peft_layers_pattern: blocks`",
        ),
        ({"lora_target_parameters": ("experts.w",)}, "`lora_target_parameters: experts.w` matches no tensor"),
        ({"lora_target_parameters": ("q_proj.weight",)}, "has an adapter already"),
        ({"lora_fan_in_fan_out": True}, r"`lora_fan_in_fan_out: true` does not fit(.|\n)*Remove"),
        ({"lora_bias": "all"}, "no layer of this model has a bias"),
        ({"peft_layer_replication": ((0, 3),)}, r"\[0, 3\](.|\n)*\[0, 2\]"),
        ({"peft_trainable_token_indices": (5, 128)}, r"128 is no token id(.|\n)*0 to 127"),
        (
            {"peft_trainable_token_indices": {"wte": (5,)}},
            "`peft_trainable_token_indices: wte` is no embedding",
        ),
        ({"lora_r": 65, "peft_init_lora_weights": "pissa"}, r"a rank of 65 is more than(.|\n)*Lower"),
        ({"lora_target_modules": ("q_proj",), "lora_exclude_modules": ("q_proj",)}, "No layer is left"),
        ({"adapter": "oft", "lora_modules_to_save": ("lm_head",)}, "with LoRA only"),
        ({"adapter": "oft", "peft": {"oft_block_size": 7, "r": 3}}, "PEFT cannot attach it"),
        ({"adapter": "ia3", "peft": {"feedforward_modules": ["up_proj"]}}, "is none of the layers"),
    ],
    ids=str,
)
def test_what_the_model_does_not_have_is_refused_with_what_it_has(keys: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        attach_adapter_(build("llama"), lora(**keys), seed=0)


def test_shared_embeddings_are_trained_as_one_unless_they_shall_not_be():
    section = lora(peft_ensure_weight_tying=True, lora_modules_to_save=("lm_head",))
    with pytest.raises(ModelError, match="are two tensors"):
        attach_adapter_(build_model(128, tied=False), section, seed=0)
    with pytest.raises(ModelError, match="neither embeddings nor head"):
        attach_adapter_(build("llama"), lora(peft_ensure_weight_tying=True), seed=0)
    for asked, is_one in ((None, True), (True, True), (False, False)):
        section = lora(peft_ensure_weight_tying=asked, lora_modules_to_save=("lm_head", "embed_tokens"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            model = attach_adapter_(build("llama"), section, seed=0).get_base_model()
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        one, other = (end.modules_to_save["default"].weight for end in ends)
        assert (one is other) == is_one


def test_loftq_starts_near_the_base_and_belongs_to_the_base_in_4_bits(tmp_path: Path):
    import bitsandbytes as bnb
    from peft import PeftModel

    section = lora(peft={"loftq_config": {"loftq_bits": 4}}, lora_r=16)
    model = attach_adapter_(build("llama"), section, seed=0)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    weight = build("llama").model.layers[0].self_attn.q_proj.weight
    near = layer.get_base_layer().weight + layer.get_delta_weight("default")
    assert (near - weight).norm() < 0.9 * (round_to_4bit(weight.detach()) - weight).norm()
    expected = logits_of(step(model))
    model.save_pretrained(tmp_path)
    (tmp_path / ROUNDED).touch()
    loaded = load_adapter(build("llama"), tmp_path)
    torch.testing.assert_close(logits_of(loaded), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        logits_of(merge_into(loaded.get_base_model(), loaded)), expected, rtol=0, atol=1e-5
    )
    # Plain PEFT, on the base that bitsandbytes holds in 4 bits
    base = build("llama")
    for name, module in list(base.named_modules()):
        if name.endswith(("q_proj", "down_proj")):
            small = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=torch.float32,
                quant_type="nf4",
            )
            small.weight = bnb.nn.Params4bit(
                module.weight.data.clone(), requires_grad=False, quant_type="nf4", compress_statistics=False
            )
            small.support_avx512bf16_for_cpu = False  # else products are in bfloat16 where the processor can
            base.set_submodule(name, small.to("cpu"))
    torch.testing.assert_close(
        logits_of(PeftModel.from_pretrained(base, str(tmp_path))), expected, rtol=0, atol=1e-5
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter."""
    folder = tmp_path_factory.mktemp("earlier")
    step(attach_adapter_(build("llama"), lora(), seed=0)).save_pretrained(folder)
    return folder


def test_an_adapter_is_trained_on_from_where_it_was(earlier: Path, tmp_path: Path):
    section = lora(lora_model_dir=str(earlier))
    model = attach_adapter_(build("llama"), section, seed=1)
    before = logits_of(load_adapter(build("llama"), earlier))
    assert torch.equal(logits_of(model), before)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 8
    expected = logits_of(step(model))
    assert (expected - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(load_adapter(build("llama"), tmp_path)), expected, rtol=0, atol=1e-6)
    # What the adapter knows need not be said again
    AdapterSection(adapter="lora", lora_model_dir=str(earlier))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora_r": 8}, r"`lora_r: 8`: the adapter in .* has 4"),
        ({"lora_alpha": 32}, "`lora_alpha: 32"),
        ({"peft_use_dora": True}, "`peft_use_dora: True`"),
        ({"lora_modules_to_save": ("lm_head",)}, "`lora_modules_to_save"),
        ({"lora_target_modules": ("q_proj",)}, "is on other layers than the config names: .*down_proj"),
        ({"adapter": "oft"}, "`adapter: oft"),
        ({"lora_model_dir": "no/such/folder"}, "holds no adapter"),
    ],
    ids=str,
)
def test_an_adapter_of_another_kind_is_not_trained_on(keys: dict[str, Any], message: str, earlier: Path):
    with pytest.raises(CheckpointError, match=message):
        attach_adapter_(build("llama"), lora(**{"lora_model_dir": str(earlier), **keys}), seed=0)


def test_an_adapter_of_another_model_is_refused(earlier: Path):
    with pytest.raises(CheckpointError, match=r"does not fit this model(.|\n)*base_model"):
        load_adapter(build("qwen2"), earlier)


def test_frozen_adapters_are_a_part_of_the_base(earlier: Path, tmp_path: Path):
    section = lora(lora_frozen_dirs=(str(earlier), str(earlier)))
    base = build("llama")
    once = logits_of(load_adapter(build("llama"), earlier))
    model = attach_adapter_(build("llama"), section, seed=0)
    twice = copy.deepcopy(base)
    for _ in range(2):
        twice = merge_into(twice, load_adapter(twice, earlier))
    torch.testing.assert_close(logits_of(model), logits_of(twice), rtol=0, atol=1e-6)
    assert (logits_of(model) - once).abs().max() > 1e-3
    settings = json.loads((earlier / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "ADAPTION_PROMPT"}))
    (tmp_path / "adapter_model.safetensors").write_bytes((earlier / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="cannot be merged"):
        attach_adapter_(build("llama"), lora(lora_frozen_dirs=(str(tmp_path),)), seed=0)
