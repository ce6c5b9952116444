"""Rules about what is trained: each branch that the examples of the rules do not reach."""

from __future__ import annotations

import pytest
from tests.unit.config.texts import accept, check

LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
RELORA = LORA + "relora: true\njagged_restart_steps: 500\n"
ROWS = "unfrozen_parameters: ['lm_head', 'model.embed_tokens.weight$[:128]']\n"
LISA = "lisa_n_layers: 2\nlisa_step_interval: 20\n"
FSDP2 = "fsdp_version: 2\nfsdp_config:\n  offload_params: true\n"


def found(text: str) -> list[tuple[str, str]]:
    """Code and key of each problem, but that a key is not built yet."""
    return [(problem.code, problem.key) for problem in check(text).diagnostics if problem.code != "SD0004"]


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("unfrozen_parameters: [lm_head, 'embed[4:4]']\n", "SD0590", "unfrozen_parameters.1"),
        ("freeze_layers: [0, 3-1]\n", "SD0591", "freeze_layers.1"),
        ("freeze_layers: -1\n", "SD0591", "freeze_layers"),
        ("freeze_layers: first\n", "SD0591", "freeze_layers"),
        (ROWS + FSDP2, "SD0592", "unfrozen_parameters"),
        (ROWS + "optimizer: schedule_free_adamw\nlr_scheduler: constant\n", "SD0592", "unfrozen_parameters"),
        (LISA + FSDP2, "SD0593", "lisa_n_layers"),
        (RELORA + "load_in_8bit: true\n", "SD0594", "load_in_8bit"),
        (RELORA + "peft_init_lora_weights: pissa\n", "SD0594", "peft_init_lora_weights"),
        (RELORA + "peft:\n  loftq_config:\n    loftq_bits: 4\n", "SD0594", "peft.loftq_config"),
        (RELORA + "optimizer: ao_adamw_4bit\n", "SD0595", "relora"),
        (
            RELORA + "relora_prune_method: reset\nrelora_prune_ratio: 0.5\n",
            "SD0596",
            "relora_prune_ratio",
        ),
        (LORA + "freeze_layers: 0-3\n", "SD0307", "freeze_layers"),
        (LISA + "freeze_layers: 0-3\n", "SD0307", "freeze_layers"),
    ],
)
def test_what_cannot_be_is_said_before_anything_loads(text: str, code: str, key: str):
    assert found(text) == [(code, key)]


@pytest.mark.parametrize(
    "text",
    [
        "freeze_layers: [0, 1, 4-7]\n",
        "freeze_layers: 0\n",
        "unfrozen_parameters: [lm_head]\n" + FSDP2,
        "unfrozen_parameters: [lm_head]\noptimizer: schedule_free_adamw\nlr_scheduler: constant\n",
        RELORA + "relora_prune_method: random\nrelora_prune_ratio: 0.5\nrelora_cpu_offload: true\n",
        RELORA + "relora_prune_method: reset\noptimizer: ao_adamw_4bit\n",
        LORA + "optimizer: ao_adamw_4bit\n",
    ],
)
def test_what_can_be_is_accepted(text: str):
    assert found(text) == []


def test_the_plugin_of_axolotl_switches_spectrum_on_at_its_own_default():
    named = "plugins: [axolotl.integrations.spectrum.SpectrumPlugin]\n"
    assert accept(named).freezing.spectrum_top_fraction == 0.5
    assert accept(named + "spectrum_top_fraction: 0.25\n").freezing.spectrum_top_fraction == 0.25
    assert accept().freezing.spectrum_top_fraction is None
