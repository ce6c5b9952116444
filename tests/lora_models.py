"""A tiny model with LoRA of any kind, by PEFT's modules and by the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from siredon.config.sections.kernels import WORDS
from siredon.hardware import probe_hardware
from siredon.model.install import Installed, install_kernels_
from siredon.model.kernel import Situation
from siredon.ops.seeded_dropout import draw_seeds, keep

WANTED = {**dict.fromkeys(WORDS, False), "lora_linear": True, "glu": True}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEED = 17

KEYS: dict[str, dict[str, Any]] = {
    "dropout": {"lora_dropout": 0.3},
    "bias": {"lora_bias": True},
    "dropout and bias": {"lora_dropout": 0.3, "lora_bias": True},
    "dora": {"use_dora": True},
    "dora and dropout": {"use_dora": True, "lora_dropout": 0.3},
}


def build(**keys: Any) -> Any:
    """A Llama of two layers with biases, and LoRA as after some steps."""
    return adapt(build_base(), **keys)


def build_base() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.08,
        attention_bias=True,
        mlp_bias=True,
    )
    return LlamaForCausalLM(config)


def adapt(model: Any, **keys: Any) -> Any:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=ALL, **keys))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "bias" in name or "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
            elif "magnitude" in name:
                weight.mul_(1 + 0.1 * torch.randn(weight.shape).to(weight.device))
    return adapted.train()


def fuse(adapted: Any) -> Installed:
    return install_kernels_(adapted.get_base_model(), WANTED, Situation(probe_hardware()))


def learn(adapted: Any, autocast: bool = False) -> list[Tensor]:
    """Loss and gradients of a batch, with the generator at `SEED`."""
    device = adapted.device
    ids = torch.randint(3, 128, (2, 24), generator=torch.Generator().manual_seed(1)).to(device)
    adapted.zero_grad()
    torch.manual_seed(SEED)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = adapted(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = [weight.grad.clone() for weight in adapted.parameters() if weight.grad is not None]
    return [loss.detach(), *gradients]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 2e-5) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-7


class Replayed(nn.Module):
    """Dropout that keeps what the kernels keep, as its seed says."""

    def __init__(self, rate: float, seed: Tensor) -> None:
        super().__init__()
        self.rate, self.seed = rate, seed

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(x.shape[:-1].numel(), x.shape[-1], device=x.device)
        mask = keep(ones, self.seed, self.rate)
        return x * (mask.view(x.shape) / (1 - self.rate)).to(x.dtype)


def replay_(adapted: Any) -> None:
    """Puts the masks of the kernels into PEFT's modules.

    Seeds are drawn at once for q, k and v, for o, and for an MLP; with DoRA for its gate and up, and then for down.
    """
    torch.manual_seed(SEED)
    for layer in adapted.get_base_model().model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        up, down = (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)
        for modules in (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            *((up, down) if mlp.down_proj.lora_magnitude_vector else ((*up, *down),)),
        ):
            for module, seed in zip(modules, draw_seeds(len(modules), adapted.device).unbind(), strict=True):
                module.lora_dropout["default"] = Replayed(module.lora_dropout["default"].p, seed)


def check(adapted: Any, tolerance: float = 2e-5, asks: float = 2e-5, again: float = 1e-6) -> None:
    """Trained and asked, with and without recomputation: what PEFT's modules give; and the table says all are in."""
    drops = any(isinstance(module, nn.Dropout) for module in adapted.modules())
    asked = learn(adapted.eval())
    adapted.train()
    expected = None if drops else learn(adapted)
    installed = fuse(adapted)
    (row,) = [row for row in installed.rows if row.name == "lora_linear"]
    assert (row.choice, row.reason) == ("14 layers", "")
    assert_same(learn(adapted.eval()), asked, asks)
    found = learn(adapted.train())
    base = adapted.get_base_model()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted.enable_input_require_grads()
    assert_same(learn(adapted), found, again)
    base.gradient_checkpointing_disable()
    installed.changes.undo()
    if expected is None:
        replay_(adapted)
        expected = learn(adapted)
    assert_same(found, expected, tolerance)


def round_(model: Any, bits: int, lean: bool = True, device: str = "cpu") -> Any:
    """Holds the weights of all layers but the head as bitsandbytes does, and moves the model to a device."""
    package = pytest.importorskip("bitsandbytes.nn")
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or name == "lm_head":
            continue
        sizes = module.in_features, module.out_features
        if bits == 8:
            packed = package.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
            packed.weight = package.Int8Params(
                module.weight.data, requires_grad=False, has_fp16_weights=False
            )
        else:
            packed = package.Linear4bit(*sizes, quant_type="nf4", compute_dtype=torch.float32)
            packed.weight = package.Params4bit(module.weight.data, quant_type="nf4", requires_grad=False)
            packed.weight.module = packed
            packed.support_avx512bf16_for_cpu = False
        packed.bias = None if module.bias is None else nn.Parameter(module.bias.data, requires_grad=False)
        model.set_submodule(name, packed.to(device))
    model.to(device)
    if bits == 8:
        model.is_loaded_in_8bit = True
        if lean:
            from siredon.model.products_8bit import keep_no_inputs_

            keep_no_inputs_(model)
    else:
        model.is_loaded_in_4bit = True
    return model
