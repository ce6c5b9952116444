"""The model that a policy is compared with, where the file names it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from siredon.config.idle import find_idle_keys, keys_set
from siredon.config.model_folder import find_folder, find_place
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.online import SYNC_KEYS, OnlineSection
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.reference import ReferenceSection
from siredon.config.sections.tokenizer import TokenizerSection


def _check_idle(reference: ReferenceSection, preference: PreferenceSection) -> Iterator[Finding]:
    """A reference model comes with a method that compares with one.

    `rl: dpo`, `ipo` and `kto` do; `simpo`, `orpo` and the loss `sft` alone have none.
    """
    if not preference.has_reference:
        names = ["reference_model", "reference_revision", "reference_adapter"]
        names += ["rl_adapter_ref_model"] if reference.rl_adapter_ref_model else []
        yield from find_idle_keys(reference, names, "`rl: dpo`")
    elif reference.reference_model is None:
        yield from find_idle_keys(reference, ("reference_revision",), "`reference_model`")


def _check_vocabulary(
    reference: ReferenceSection,
    preference: PreferenceSection,
    model: ModelSection,
    tokenizer: TokenizerSection,
) -> Iterator[Finding]:
    """A reference model has the vocabulary of the model in training.

    Log-probabilities are compared id by id: the same id must be the same token.  `siredon check` looks into
    `tokenizer.json` of both, where they are on this machine; `siredon train` asks the tokenizers themselves.
    """
    name = reference.reference_model
    if not preference.has_reference or name is None:
        return
    own = tokenizer.path_for(model.base_model)
    here = _read_vocabulary(own, model.revision)
    there = _read_vocabulary(name, reference.reference_revision)
    if here is None or there is None or here == there:
        return
    odd = sorted({token for token, _ in here.items() ^ there.items()})
    yield Finding(
        "reference_model",
        f"{name} has another vocabulary than {own}: {odd[0]!r} has the id {there.get(odd[0], 'none')}, not "
        f"{here.get(odd[0], 'none')}; {len(odd):,} tokens differ",
        "Name a model with the same tokenizer.",
    )


def _read_vocabulary(name: str, revision: str | None) -> dict[str, int] | None:
    """Token -> id by the `tokenizer.json` of a model; None if there is none on this machine."""
    try:
        place = find_place(name)
        path = find_folder(place.folder, revision or "main") / "tokenizer.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        listed = found["model"]["vocab"]
        # Unigram has a list of [token, score]
        is_scored = not isinstance(listed, dict)
        words = {token: index for index, (token, _) in enumerate(listed)} if is_scored else listed
        return words | {entry["content"]: entry["id"] for entry in found.get("added_tokens") or ()}
    except (OSError, ValueError, RuntimeError, LookupError, TypeError):  # not there, or of another make
        return None


def _check_adapter(reference: ReferenceSection, preference: PreferenceSection) -> Iterator[Finding]:
    """`reference_adapter` is the folder of an adapter.

    One that `siredon train` wrote, or PEFT: with `adapter_config.json` in it.
    """
    folder = reference.reference_adapter
    if not preference.has_reference or folder is None:
        return
    if not os.path.isfile(os.path.join(os.path.expanduser(folder), "adapter_config.json")):
        yield Finding(
            "reference_adapter",
            f"`{folder}` is no adapter: it holds no adapter_config.json",
            "Name a folder that `siredon train` wrote an adapter to.",
        )


def _check_one(reference: ReferenceSection) -> Iterator[Finding]:
    """A policy is compared with one reference.

    `rl_adapter_ref_model: true` says that it is `base_model` without an adapter; the other keys name another one.
    """
    others = ("reference_model", "reference_adapter")
    for name in keys_set(reference, others) if reference.rl_adapter_ref_model else ():
        yield Finding(
            "rl_adapter_ref_model",
            f"`rl_adapter_ref_model: true` and `{name}` are two references",
            "Keep one of them.",
        )
        return


#: Starts of LoRA that leave the model as it is.
_NOTHING = (None, True, "gaussian", "eva")


def _check_needless(
    reference: ReferenceSection, preference: PreferenceSection, adapter: AdapterSection
) -> Iterator[Finding]:
    """`rl_adapter_ref_model: true` is for a policy that does not start as `base_model`.

    It holds the base twice.  Beside a new LoRA, which starts as nothing, and where every weight is trained, the policy
    at its start is the base: the default compares with the same numbers without a second model.  An adapter that is
    trained on (`lora_model_dir`) makes the difference: then the default compares with base and adapter, and this with
    the base.
    """
    if not (reference.rl_adapter_ref_model and preference.has_reference):
        return
    if adapter.adapter is not None and not adapter.is_lora:
        return
    changed = (adapter.lora_model_dir, adapter.lora_frozen_dirs, adapter.peft_layer_replication)
    if any(changed) or adapter.rounds_base or adapter.peft_init_lora_weights not in _NOTHING:
        return
    start = "a new adapter starts as nothing" if adapter.adapter else "without an adapter the start is kept"
    yield Finding(
        "rl_adapter_ref_model",
        f"`rl_adapter_ref_model: true` gives the same as the default, with a second model: {start}",
        "Remove it.",
        "warning",
    )


def _check_sync_keys(preference: PreferenceSection, online: OnlineSection) -> Iterator[Finding]:
    """How a reference follows the policy is said beside `sync_ref_model: true`.

    Without it the reference stays what it is.
    """
    if preference.has_reference and online.trl is not None and not online.trl.sync_ref_model:
        yield from find_idle_keys(online.trl, SYNC_KEYS[1:], "`sync_ref_model: true`", "trl.")


def _check_sync(
    preference: PreferenceSection, online: OnlineSection, reference: ReferenceSection
) -> Iterator[Finding]:
    """A reference that follows the policy begins as the policy, and is asked as it is at each step.

    What it thinks of answers changes on the way, so it cannot be computed ahead.  A model or adapter that is named has
    other weights than those in training, or other places for them, and cannot be mixed with these.
    """
    if not preference.has_reference or online.reference_sync is None:
        return
    asked = {
        "precompute_ref_log_probs": bool(preference.precompute_ref_log_probs),
        "reference_model": reference.reference_model is not None,
        "reference_adapter": reference.reference_adapter is not None,
        "rl_adapter_ref_model": bool(reference.rl_adapter_ref_model),
    }
    for name, is_set in asked.items():
        if is_set:
            yield Finding(
                "trl.sync_ref_model",
                f"`sync_ref_model: true` does not work with `{name}`",
                f"Remove `{name}`, or set `sync_ref_model: false`.",
            )


_PAIRS = "datasets:\n  - path: pairs.jsonl\n    type: chat_template.default\nrl: dpo\n"
_LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
_MOVED = _LORA + "peft_init_lora_weights: pissa\n"
_SYNC = "trl:\n  sync_ref_model: true\n"
RULES = (
    Rule(
        "SD0714",
        _check_idle,
        wrong=_PAIRS.replace("rl: dpo", "rl: orpo") + "reference_model: models/tuned",
        right=_PAIRS + "reference_model: models/tuned",
    ),
    Rule(
        "SD0715",
        _check_vocabulary,
        wrong=_PAIRS + "reference_model: models/of-another-family",
        right=_PAIRS + "reference_model: models/of-the-same-family",
        portable=False,
    ),
    Rule(
        "SD0716",
        _check_adapter,
        wrong=_PAIRS + "reference_adapter: outputs/missing",
        right=_PAIRS,
    ),
    Rule(
        "SD0717",
        _check_one,
        wrong=_PAIRS + _MOVED + "rl_adapter_ref_model: true\nreference_model: models/tuned",
        right=_PAIRS + _MOVED + "reference_model: models/tuned",
    ),
    Rule(
        "SD0718",
        _check_needless,
        wrong=_PAIRS + _LORA + "rl_adapter_ref_model: true",
        right=_PAIRS + _MOVED + "rl_adapter_ref_model: true",
    ),
    Rule(
        "SD0719",
        _check_sync_keys,
        wrong=_PAIRS + "trl:\n  ref_model_sync_steps: 32",
        right=_PAIRS + _SYNC + "  ref_model_sync_steps: 32",
    ),
    Rule(
        "SD0722",
        _check_sync,
        wrong=_PAIRS + _SYNC + "precompute_ref_log_probs: true",
        right=_PAIRS + _SYNC,
    ),
)
