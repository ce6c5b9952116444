"""A reference that the file names: each way to it gives the log-probabilities of a plain second model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model, build_tokenizer
from tests.unit.train.pair_steps import (
    build_pair_trainer,
    changed,
    random_pairs,
    true_pair_step,
    true_scores,
)
from tests.unit.train.steps import CPU, GradientCatcher, largest_difference

from siredon.config.load import load_config
from siredon.data.types import IGNORE
from siredon.errors import CheckpointError, ModelError
from siredon.model.precision import Precision
from siredon.train.chunked_loss import ChunkedLoss, find_head_of
from siredon.train.reference import Beside, OtherWeights, load_reference

PAIRS = random_pairs([(20, 30, 5), (7, 2, 40), (33, 9, 9), (12, 1, 1), (1, 17, 3)])
FP32 = Precision(torch.float32, None, False)
LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["q_proj", "v_proj"]}


def adapt(model: Any, seed: int, **settings: Any) -> Any:
    """A model with LoRA whose numbers are drawn."""
    from peft import LoraConfig, get_peft_model

    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**{**given, **settings}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape))
    return adapted


@pytest.fixture
def folders(tokenizer: Any, tmp_path: Path) -> dict[str, Path]:
    """The base, another model, and adapters over the base: one like that of the policy, and others."""
    names = ("base", "other", "like", "larger", "scaled", "wider")
    found = {name: tmp_path / name for name in names}
    base = build_model(len(tokenizer))
    for name, model in (("base", base), ("other", changed(base))):
        model.save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    settings: dict[str, dict[str, Any]] = {
        "like": {},
        "larger": {"r": 8},
        "scaled": {"lora_alpha": 16},
        "wider": {"target_modules": ["q_proj", "v_proj", "o_proj"]},
    }
    for name, changes in settings.items():
        adapt(copy.deepcopy(base), 11, **changes).save_pretrained(found[name])
    return found


def read_plain(folders: dict[str, Path], model: str, adapter: str | None) -> Any:
    """What `transformers` and PEFT make of it, on their own."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(folders[model])
    if adapter is None:
        return found
    return PeftModel.from_pretrained(found, str(folders[adapter])).merge_and_unload(safe_merge=True)


def build(
    folders: dict[str, Path], write_config: Any, tokenizer: Any, policy: Any, **keys: Any
) -> tuple[Any, Any]:
    """A trainer with the reference of the keys, and its config."""
    named = {
        name: str(folders[value]) if value in folders else value
        for name, value in keys.items()
        if isinstance(value, str)
    }
    keys = {"base_model": str(folders["base"]), "rl": "dpo", **keys, **named}
    keys["datasets"] = [{"path": "pairs.jsonl", "type": "chat_template.default"}]
    config, _ = load_config(str(write_config("reference.yml", **keys)))
    trainer = build_pair_trainer(
        policy, policy, PAIRS, write_config, gradient_accumulation_steps=5, chunked=False
    )
    trainer.processing_class = tokenizer
    base = policy.get_base_model() if "peft_config" in vars(policy) else policy
    head = find_head_of(trainer, policy, base)
    assert not isinstance(head, str)
    trainer.chunked = ChunkedLoss(head)
    trainer.reference = load_reference(trainer, config, FP32, CPU)
    return trainer, config


#: Keys -> the model and the adapter that they name, and how the reference is held beside LoRA.
WAYS: dict[str, tuple[dict[str, str], tuple[str, str | None], type]] = {
    "a model": ({"reference_model": "other"}, ("other", None), Beside),
    "the base": ({"reference_model": "base"}, ("base", None), Beside),
    "a model, an adapter": (
        {"reference_model": "other", "reference_adapter": "like"},
        ("other", "like"),
        Beside,
    ),
    "an adapter": ({"reference_adapter": "like"}, ("base", "like"), OtherWeights),
    "a larger adapter": ({"reference_adapter": "larger"}, ("base", "larger"), Beside),
    "an adapter of another scale": ({"reference_adapter": "scaled"}, ("base", "scaled"), Beside),
    "an adapter on more layers": ({"reference_adapter": "wider"}, ("base", "wider"), Beside),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("adapts", [False, True], ids=["full", "lora"])
def test_each_way_gives_what_a_plain_second_model_gives(
    folders: dict[str, Path], write_config: Any, tokenizer: Any, way: str, adapts: bool
):
    keys, (model, adapter), kind = WAYS[way]
    policy = changed(build_model(len(tokenizer)))
    if adapts:
        policy = adapt(build_model(len(tokenizer)), 5)
    trainer, _ = build(folders, write_config, tokenizer, policy, **keys, **(LORA if adapts else {}))
    assert type(trainer.reference) is (kind if adapts else Beside)
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    own = trainer.chunked, trainer.selects_logits
    plain = read_plain(folders, model, adapter).eval()
    truth = copy.deepcopy(plain).double()
    batch = trainer.data_collator([PAIRS[index : index + 2] for index in range(0, 10, 2)])
    with torch.no_grad():
        found = trainer._score_reference(batch)
        assert (found.double() - true_scores(truth, PAIRS)).abs().max() < 2e-4
        # The same in fp32, but for the order in which an adapter's products are added
        wanted = true_scores(plain, PAIRS)
        assert (found - wanted).abs().max() < 2e-4
        # Live, it is computed anew, and nothing of the policy has moved, nor how it is scored
        assert torch.equal(trainer._score_reference(batch), found)
    after = policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (trainer.chunked, trainer.selects_logits) == own
    assert any(weight.requires_grad for weight in policy.parameters())


def test_a_second_model_is_that_of_the_policy_to_the_bit(
    folders: dict[str, Path], write_config: Any, tokenizer: Any
):
    policy = build_model(len(tokenizer))
    trainer, _ = build(folders, write_config, tokenizer, policy, reference_model="base")
    batch = trainer.data_collator([PAIRS[0:2], PAIRS[2:4]])
    with torch.no_grad():
        assert torch.equal(trainer._score_reference(batch), trainer.score_samples(policy.eval(), batch))
    second = trainer.reference.model
    assert not second.training
    assert not any(weight.requires_grad for weight in second.parameters())


@pytest.mark.parametrize("way", ["a model", "an adapter", "a larger adapter"])
def test_a_step_is_the_truth_against_that_reference(
    folders: dict[str, Path], write_config: Any, tokenizer: Any, way: str
):
    keys, (model, adapter), _ = WAYS[way]
    policy = changed(build_model(len(tokenizer)))
    truth, wanted = true_pair_step(policy, read_plain(folders, model, adapter), PAIRS)
    trainer, _ = build(folders, write_config, tokenizer, policy, **keys)
    catcher = GradientCatcher()
    trainer.add_callback(catcher)
    trainer.train()
    logs = next(row for row in trainer.state.log_history if "loss" in row)
    assert logs["loss"] == pytest.approx(truth, abs=1e-5)
    assert largest_difference(catcher.gradients, wanted) < 1e-5


def test_what_is_held_beside_the_policy_is_counted(
    folders: dict[str, Path], write_config: Any, tokenizer: Any
):
    from siredon.train.probe import Prober

    policy = adapt(build_model(len(tokenizer)), 5)
    size = sum(weight.numel() for weight in build_model(len(tokenizer)).parameters()) * 4
    trained = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad) * 4
    for keys, least in (({"reference_model": "other"}, size), ({"reference_adapter": "like"}, trained)):
        trainer, _ = build(folders, write_config, tokenizer, policy, **keys, **LORA)
        held = Prober(trainer, "adamw_torch", CPU, accumulates=False).count_held()
        # Buffers of a second model are few numbers
        assert least <= held <= least + 4096


def test_a_model_with_other_tokens_is_refused(
    folders: dict[str, Path], write_config: Any, tokenizer: Any, tmp_path: Path
):
    other = tmp_path / "strange"
    build_model(len(tokenizer)).save_pretrained(other)
    build_tokenizer(size=400).save_pretrained(other)
    folders["strange"] = other
    config, _ = load_config(
        str(
            write_config(
                base_model=str(folders["base"]),
                rl="dpo",
                reference_model=str(folders["other"]),
                datasets=[{"path": "pairs.jsonl", "type": "chat_template.default"}],
            )
        )
    )
    # Past the check of the file, which finds it too
    section = config.reference.model_copy(update={"reference_model": str(other)})
    policy = build_model(len(tokenizer))
    trainer = build_pair_trainer(policy, policy, PAIRS, write_config)
    trainer.processing_class = tokenizer
    strange = config.model_copy(update={"reference": section})
    with pytest.raises(ModelError, match=r"^reference_model: .*strange has another vocabulary than .*base"):
        load_reference(trainer, strange, FP32, CPU)


def test_tokens_that_the_file_adds_are_no_difference(
    folders: dict[str, Path], write_config: Any, tokenizer: Any
):
    from siredon.model.tokenizer import load_tokenizer

    keys = {"base_model": str(folders["base"]), "tokens": ["<a>", "<b>"]}
    config, _ = load_config(str(write_config(**keys)))
    longer = load_tokenizer(config.tokenizer, config.model)
    policy = build_model(len(tokenizer))
    trainer, _ = build(folders, write_config, longer, policy, reference_model="base", tokens=["<a>", "<b>"])
    assert len(trainer.reference.model.get_input_embeddings().weight) >= len(longer) == len(tokenizer) + 2


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"reference_model": "missing/model"}, ModelError, "^reference_model: missing/model is neither"),
        ({"reference_model": "other", "reference_adapter": "strange"}, CheckpointError, "does not fit"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(
    folders: dict[str, Path],
    write_config: Any,
    tokenizer: Any,
    tmp_path: Path,
    keys: Any,
    error: Any,
    words: str,
):
    folders["strange"] = tmp_path / "strange"
    larger = build_model(len(tokenizer))
    larger.config.hidden_size = 32
    from transformers import LlamaForCausalLM

    adapt(LlamaForCausalLM(larger.config), 1).save_pretrained(folders["strange"])
    with pytest.raises(error, match=words):
        build(folders, write_config, tokenizer, build_model(len(tokenizer)), **keys)


def test_an_adapter_stands_in_whatever_dropout_and_start_it_had(
    folders: dict[str, Path], write_config: Any, tokenizer: Any, tmp_path: Path
):
    folders["dropped"] = tmp_path / "dropped"
    adapt(build_model(len(tokenizer)), 11, lora_dropout=0.3).save_pretrained(folders["dropped"])
    policy = adapt(build_model(len(tokenizer)), 5)
    trainer, _ = build(folders, write_config, tokenizer, policy, reference_adapter="dropped", **LORA)
    assert type(trainer.reference) is OtherWeights


def test_the_other_answer_is_not_seen_by_a_second_model(
    folders: dict[str, Path], write_config: Any, tokenizer: Any
):
    policy = build_model(len(tokenizer))
    trainer, _ = build(folders, write_config, tokenizer, policy, reference_model="other")
    other = copy.deepcopy(PAIRS[:2])
    other[1].input_ids[-3:] += 1
    other[1].labels[-3:] += 1
    assert other[1].labels[0] == IGNORE
    with torch.no_grad():
        one, two = (trainer._score_reference(trainer.data_collator([pair])) for pair in (PAIRS[:2], other))
    assert one[0] == two[0]
    assert one[1] != two[1]
