"""What may differ between a run and the checkpoint that it goes on from: compared key by key, and decided by rule."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from siredon.config.fields import Section
from siredon.config.resume_kinds import Kind, kind_in, list_working
from siredon.config.schema import Config
from siredon.train.arguments import build_schedule
from siredon.train.fingerprint import ABSENT

#: `refused` ends the run before anything is loaded, `warned` is a warning, `allowed` a line.
Verdict = Literal["allowed", "warned", "refused"]
_ROUNDING = "sums are made in another order: results differ by rounding"
_WATCHED = "metrics before and after may not be comparable"
#: Points of two learning-rate curves that are compared.
_POINTS = 64


@dataclass(frozen=True)
class Identity:
    """What a checkpoint keeps of its run, so that another run can tell whether it is the same.

    Args:
        data: Fingerprint of the prepared data.
        num_ranks: Processes.
        micro_batch_size: Sequences per forward pass.
        gradient_accumulation_steps: Forward passes per step.
        seed: Seed of all random choices.
        train_data: Fingerprint of the training rows alone; empty if there is none.
        model: Fingerprint of the weights it starts from; empty if it is not known.
        reference: Fingerprint of the model that the policy is compared with; empty if none is named.
        num_steps: Optimizer steps of the whole run; 0 if it is not known.
        num_packs: Sequences of an epoch, with the empty ones that several ranks need; 0 for a stream.
        formats: Number formats, for people.
        device: What computes, for people.
        versions: Library -> version.
        keys: Every key that is compared -> its value.
    """

    data: str
    num_ranks: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    seed: int
    train_data: str = ""
    model: str = ""
    reference: str = ""
    num_steps: int = 0
    num_packs: int = 0
    formats: str = ""
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Sequences of an optimizer step, over all ranks."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.num_ranks


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was.

    Args:
        name: The key, or what it is.
        then: What it was.
        now: What it is.
        verdict: What follows.
        reason: Why, for people.
    """

    name: str
    then: object
    now: object
    verdict: Verdict
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {_show(self.then)} -> {_show(self.now)} ({self.verdict}: {self.reason})"


def compare_runs(
    then: Mapping[str, Any], now: Identity, config: Config, num_steps_done: int
) -> list[Difference]:
    """Everything that differs, with what follows; nothing for the same run.

    Args:
        then: The identity in the checkpoint; an old one knows only data, batch and seed.  With it `peak`, the learning
            rate that the checkpoint goes on with, if it says so.
        now: That of this run.
        config: Of this run.
        num_steps_done: Optimizer steps that the checkpoint has behind it.
    """
    found = [
        *_compare_data(then, now, config),
        *_compare_batches(then, now, config),
        *_compare_facts(then, now),
        *_compare_length(then, now, config, num_steps_done),
    ]
    return found + _compare_keys(then.get("keys"), now, config)


def _compare_data(then: Mapping[str, Any], now: Identity, config: Config) -> Iterator[Difference]:
    if then.get("data") == now.data:
        return
    train, keys = then.get("train_data"), then.get("keys")
    if train and train == now.train_data and config.schedule.lr_scheduler != "reduce_lr_on_plateau":
        yield Difference("validation rows", then["data"], now.data, "warned", _WATCHED)
        return
    yield Difference("data", then.get("data"), now.data, "refused", "going on would repeat or skip rows")
    for name, was, value in _list_changed(keys, now, config, "data"):
        yield Difference(name, was, value, "refused", "it decides what the rows are")


def _compare_batches(then: Mapping[str, Any], now: Identity, config: Config) -> Iterator[Difference]:
    names = ("num_ranks", "micro_batch_size", "gradient_accumulation_steps")
    changed = [
        (name, then.get(name), asdict(now)[name]) for name in names if then.get(name) != asdict(now)[name]
    ]
    if not changed:
        return
    ranks, size, steps = (int(then[name]) for name in names)
    before = Identity("", ranks, size, steps, 0)
    per_pass = before.micro_batch_size * before.num_ranks
    grouped = config.packing.group_by_length and not config.packing.sample_packing
    # Their empty packs are shuffled among the others
    is_fixed = grouped or config.data.is_mixed
    if before.batch != now.batch:
        verdict: Verdict = "refused"
        reason = (
            f"a step would have {now.batch} sequences and not {before.batch}; {_name_accepted(before, now)}"
        )
    elif grouped and per_pass != now.micro_batch_size * now.num_ranks:
        verdict = "refused"
        reason = (
            f"`group_by_length` would sort rows into other batches; {_name_accepted(before, now, per_pass)}"
        )
    elif is_fixed and then.get("num_packs") != now.num_packs:
        verdict = "refused"
        reason = (
            f"an epoch would have {now.num_packs} sequences and not {then.get('num_packs')}, in another order"
        )
    else:
        verdict = "warned"
        reason = (
            f"a step has the same {now.batch} sequences, summed in another order, with other random numbers"
        )
    for name, old, new in changed:
        yield Difference(name, old, new, verdict, reason)


def _name_accepted(before: Identity, now: Identity, per_pass: int | None = None) -> str:
    """Which batch sizes go with the number of processes that there are now."""
    share, rest = divmod(before.batch, now.num_ranks)
    pairs = [(size, share // size) for size in range(1, share + 1) if share % size == 0 and not rest]
    pairs = [pair for pair in pairs if per_pass is None or pair[0] * now.num_ranks == per_pass]
    if not pairs:
        return f"no batch size gives that with {now.num_ranks} processes"
    # The nearest to what it was
    pairs.sort(key=lambda pair: abs(pair[0] - before.micro_batch_size))
    shown = [f"micro_batch_size {size} with gradient_accumulation_steps {steps}" for size, steps in pairs[:3]]
    return f"with {now.num_ranks} process(es) accepted: {', or '.join(shown)}"


def _compare_facts(then: Mapping[str, Any], now: Identity) -> Iterator[Difference]:
    if then.get("seed") != now.seed:
        yield Difference("seed", then.get("seed"), now.seed, "refused", "every random choice depends on it")
    if then.get("model") and now.model and then["model"] != now.model:
        reason = "the checkpoint belongs to other weights of `base_model`"
        yield Difference("base_model", then["model"], now.model, "refused", reason)
    reference = then.get("reference", "")
    # What was not fetched yet when the run began is not known
    if reference != now.reference and ABSENT not in reference + now.reference:
        reason = "the policy would be compared with another model"
        yield Difference("reference", reference or None, now.reference or None, "refused", reason)
    if then.get("formats") and now.formats and then["formats"] != now.formats:
        yield Difference("number formats", then["formats"], now.formats, "refused", "other arithmetic")
    if then.get("device") and now.device and then["device"] != now.device:
        yield Difference("device", then["device"], now.device, "warned", _ROUNDING)
    versions = then.get("versions", {})
    for name in sorted(versions.keys() & now.versions.keys()):
        if versions[name] != now.versions[name]:
            reason = "another version may round otherwise"
            yield Difference(name, versions[name], now.versions[name], "warned", reason)


def _compare_length(
    then: Mapping[str, Any], now: Identity, config: Config, num_done: int
) -> Iterator[Difference]:
    old, new = int(then.get("num_steps", 0)), now.num_steps
    if old in (0, new) or new <= num_done:
        return
    builder = build_schedule(config)
    builder = replace(builder, peak=float(then.get("peak", builder.peak)))
    if config.schedule.lr_scheduler == "one_cycle":
        reason = (
            f"`one_cycle` ends after its {old} steps; its momentum and learning rate have no other length"
        )
        yield Difference("optimizer steps", old, new, "refused", reason)
        return
    last = min(old, new) - 1
    points = sorted({num_done + (last - num_done) * part // _POINTS for part in range(_POINTS + 1)})
    changed = [step for step in points if builder.rate_at(old, step) != builder.rate_at(new, step)]
    if not changed:
        reason = "the learning rates of the steps that were planned stay the same"
        yield Difference("optimizer steps", old, new, "allowed", reason)
        return
    before, after = (f"{builder.rate_at(steps, changed[0]):.3g}" for steps in (old, new))
    reason = (
        f"the learning rate of step {changed[0] + 1:,} was to be {before} and is {after}: from there on it is that of "
        f"a run of {new:,} steps"
    )
    yield Difference("optimizer steps", old, new, "warned", reason)


def _compare_keys(then: Mapping[str, Any] | None, now: Identity, config: Config) -> list[Difference]:
    """What the keys say that are compared by their values."""
    found = []
    for name, was, value in _list_changed(then, now, config, "fixed"):
        if name != "seed":
            found.append(Difference(name, was, value, "refused", "it decides what is trained, and how"))
    for name, was, value in _list_changed(then, now, config, "watched"):
        found.append(Difference(name, was, value, "warned", _WATCHED))
    for name, was, value in _list_changed(then, now, config, "rounding"):
        found.append(Difference(name, was, value, "warned", _ROUNDING))
    return found


def _list_changed(
    then: Mapping[str, Any] | None, now: Identity, config: Config, kind: Kind
) -> Iterator[tuple[str, Any, Any]]:
    """Those keys of a kind that have another value: name, what it was, what it is."""
    for info in list_working():
        if then is None or kind_in(config, info) != kind:
            continue
        # A checkpoint of a Siredon that had no such key had its default
        unset = json.loads(json.dumps(info.field.get_default(call_default_factory=True), default=_to_json))
        was, value = then.get(info.name, unset), json.loads(json.dumps(now.keys.get(info.name)))
        if was != value:
            yield info.name, was, value


def _to_json(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Section) else str(value)


def _show(value: object) -> str:
    text = "unset" if value is None else f"{value}"
    return text if len(text) <= 80 else f"{text[:77]}..."
