"""The sections of a model card, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from math import exp
from pathlib import Path
from typing import Any

import yaml

from siredon.evaluate.figures import show_figure, show_size
from siredon.export.card_facts import Facts
from siredon.export.origin import UNKNOWN, Origin, show_name
from siredon.redaction import redact_line, redact_values

HUB = "https://huggingface.co"
_METHODS = {
    "lora": "LoRA",
    "qlora": "QLoRA",
    "ia3": "IA3",
    "lokr": "LoKr",
    "vera": "VeRA",
    "oft": "OFT",
    "boft": "BOFT",
}
_WHAT = {"gguf": "A GGUF file", "onnx": "An ONNX graph", "model": "A model"}
_LIBRARIES = (
    "python",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "bitsandbytes",
)


def write_sections(facts: Facts) -> str:
    """The card without its head."""
    title = f"# {facts.name}{f' ({facts.part})' if facts.part else ''}"
    sections = [
        f"{title}\n\n{_write_summary(facts)}",
        *_use(facts),
        *_results(facts),
        *_data(facts),
        *_training(facts),
        *_checks(facts),
        *_licences(facts),
        *_origin(facts),
        *_settings(facts),
    ]
    return "\n\n".join(sections) + "\n"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; figures are set to the right if their column's name begins with a blank."""
    lines = [names, ["--:" if name.startswith(" ") else "---" for name in names], *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def _link(origin: Origin, kind: str = "") -> str:
    return f"[{origin.hub_id}]({HUB}/{kind}{origin.hub_id})" if origin.hub_id else f"`{origin.name}`"


def _write_summary(facts: Facts) -> str:
    version = str(facts.record.get("siredon") or "")
    by = f"[Siredon](https://github.com/siredon/siredon){f' {version}' if version else ''}"
    base = _link(facts.base) if facts.base.name else ""
    method = _METHODS.get(facts.adapter, facts.adapter)
    if facts.kind == "adapter":
        method = method or "adapter"
        what = f"{'An' if method[0] in 'aAIO' else 'A'} {method}{' adapter' if method != 'adapter' else ''}"
        text = f"{what} for {base}" if base else what
    elif facts.relation == "quantized" and facts.kind == "model":
        text = f"{'A fine-tuned' if facts.record else 'A'} {base or 'model'} in few bits a weight"
    elif facts.adapter:
        text = f"{_WHAT[facts.kind]}: {base or 'its base'} with {method} merged into its weights"
    else:
        text = f"{_WHAT[facts.kind]}: {base}, fine-tuned" if base else _WHAT[facts.kind]
    if not facts.record:
        return f"{text}. How it was trained is not recorded beside it."
    done = "" if facts.finished else f" {_tell_state(facts)}"
    return f"{text}, trained with {by}.{done}"


def _tell_state(facts: Facts) -> str:
    step = next((int(line["step"]) for line in reversed(facts.logged) if "step" in line), 0)
    whole = int(facts.record.get("num_steps") or 0)
    return f"**Training has not ended**: these are weights of about step {step:,} of {whole:,}."


def _use(facts: Facts) -> Iterator[str]:
    repo = facts.repo if "/" in facts.repo else "owner/name"
    if facts.kind == "gguf":
        yield f"## Use\n\n```\nllama-cli -hf {repo}\n```"
    if facts.kind not in ("adapter", "model"):
        return
    made = "AutoPeftModelForCausalLM" if facts.kind == "adapter" else "AutoModelForCausalLM"
    library = "peft" if facts.kind == "adapter" else "transformers"
    imports = f"from {library} import {made}\nfrom transformers import AutoTokenizer"
    if library == "transformers":
        imports = f"from transformers import {made}, AutoTokenizer"
    ids = 'tokenizer("Once upon a time", return_tensors="pt")'
    if facts.has_template:
        asked = '[{"role": "user", "content": "Who are you?"}]'
        ids = (
            f"tokenizer.apply_chat_template(\n    {asked},\n"
            '    add_generation_prompt=True, return_tensors="pt", return_dict=True,\n)'
        )
    packages = " ".join(["transformers", *_find_packages(facts)])
    yield (
        f"## Use\n\nWith `pip install {packages}`:\n\n"
        f'```python\n{imports}\n\nname = "{repo}"\ntokenizer = AutoTokenizer.from_pretrained(name)\n'
        f'model = {made}.from_pretrained(name, dtype="auto")\ninputs = {ids}\n'
        "answer = model.generate(**inputs, max_new_tokens=100)\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n```'
    )


def _find_packages(facts: Facts) -> Iterator[str]:
    """What the weights take beside transformers."""
    if facts.kind == "adapter":
        yield "peft"
        held = (
            ("load_in_4bit", "bitsandbytes"),
            ("load_in_8bit", "bitsandbytes"),
            ("load_in_torchao", "torchao"),
        )
        yield from dict.fromkeys(package for key, package in held if facts.setting("quantization", key))
    if library := str(facts.quantize.get("library") or "").split():
        yield "compressed-tensors" if library[0] == "llm-compressor" else library[0]


def _results(facts: Facts) -> Iterator[str]:
    rows = []
    of_words = not any(facts.given.get(key) for key in ("rl", "reward_model", "process_reward_model"))
    judged = [line for line in facts.logged if "eval_loss" in line]
    places: dict[int, list[str]] = {}
    if judged:
        best = min(range(len(judged)), key=lambda place: judged[place]["eval_loss"])
        for name, place in (("first", 0), ("last", len(judged) - 1), ("best", best)):
            places.setdefault(place, []).append(name)
    for place, names in places.items():
        line = judged[place]
        shown = f", {' and '.join(names)}" if len(places) > 1 else ""
        rows.append([f"validation{shown}", _step(line), *_loss(line["eval_loss"], of_words=of_words)])
    if trained := [line for line in facts.logged if "loss" in line]:
        rows.append(["training, last", _step(trained[-1]), *_loss(trained[-1]["loss"], of_words=of_words)])
    if not rows:
        return
    plot = "\n\n![Loss over the steps of the run](loss.png)" if facts.has_plot else ""
    about = "Means over what the method judges: pairs, answers or steps."
    if of_words:
        about = "Means over learned tokens, in nats; the perplexity is the exponential of the loss."
    if facts.quantize:
        about = f"Of the run, before the weights were rounded. {about}"
    names = ["", " step", " loss", *([" perplexity"] if of_words else [])]
    yield f"## Loss\n\n{table(names, rows)}\n\n{about}{plot}"


def _step(line: Mapping[str, float]) -> str:
    return f"{int(line.get('step', 0)):,}"


def _loss(loss: float, *, of_words: bool) -> list[str]:
    perplexity = [show_figure(exp(loss)) if loss < 700 else ""] if of_words else []
    return [f"{loss:.4f}", *perplexity]


def _data(facts: Facts) -> Iterator[str]:
    if not facts.data:
        return
    rows = [
        [
            _link(source.origin, "datasets/"),
            _count(source.rows),
            _count(source.tokens),
            _count(source.learned),
            _licence(source.origin),
            f"`{source.fingerprint}`" if source.fingerprint else "",
        ]
        for source in facts.data
    ]
    names = ["data set", " rows", " tokens", " learned tokens", "licence", "fingerprint"]
    held = facts.setting("data", "val_set_size")
    lines = [table(names, rows)]
    if held:
        share = f"{100 * held:g} % of the samples" if held < 1 else f"{held:g} samples"
        lines.append(f"For validation {share} were held out.")
    if whole := (facts.record.get("data") or {}).get("fingerprint"):
        lines.append(f"Fingerprint of all prepared samples together: `{whole}`.")
    yield "## Data\n\n" + "\n\n".join(lines)


def _count(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


def _training(facts: Facts) -> Iterator[str]:
    rows = [[name, text] for name, text in _list_settings(facts) if text]
    if rows:
        yield f"## Training\n\n{table(['setting', 'value'], rows)}"


def _list_settings(facts: Facts) -> Iterator[tuple[str, str]]:
    """What decides most, in words."""
    get = facts.setting
    method = _METHODS.get(facts.adapter, facts.adapter) or "full fine-tuning"
    yield "method", method if facts.record else ""
    if facts.adapter and get("adapter", "lora_r"):
        dropout = f", dropout {get('adapter', 'lora_dropout'):g}" if get("adapter", "lora_dropout") else ""
        targets = (
            "all linear layers"
            if get("adapter", "lora_target_linear")
            else ", ".join(get("adapter", "lora_target_modules") or ["the default layers"])
        )
        alpha = get("adapter", "lora_alpha")
        yield "adapter", f"rank {get('adapter', 'lora_r')}, alpha {alpha or 0:g}{dropout}, on {targets}"
    for name in ("load_in_4bit", "load_in_8bit", "load_in_torchao"):
        yield "base held in", f"`{name}: {get('quantization', name)}`" if get("quantization", name) else ""
    steps, tokens = facts.finished.get("num_steps"), facts.finished.get("num_tokens")
    yield (
        "steps",
        f"{steps or facts.record.get('num_steps') or 0:,}" + (f", {tokens:,} tokens" if tokens else ""),
    )
    epoch = (facts.finished.get("last_metrics") or {}).get("epoch")
    yield "epochs", f"{epoch:g}" if epoch is not None else ""
    micro, accumulated = get("batch", "micro_batch_size"), get("batch", "gradient_accumulation_steps")
    ranks = int(facts.record.get("num_ranks") or 1)
    if micro and accumulated:
        yield "sequences a step", _tell_batch(micro, accumulated, ranks)
    length = get("data", "sequence_len")
    yield (
        "sequence length",
        f"{length:,}{', packed' if get('packing', 'sample_packing') else ''}" if length else "",
    )
    rate = get("optimizer", "learning_rate")
    yield "learning rate", f"{rate:g}, {get('schedule', 'lr_scheduler')}{_warmup(facts)}" if rate else ""
    decay = get("optimizer", "weight_decay")
    yield "optimizer", f"{get('optimizer', 'optimizer')}, weight decay {decay or 0:g}" if rate else ""
    yield "number format", _tell_format(facts)
    yield "seed", str(facts.record.get("seed", ""))


def _tell_format(facts: Facts) -> str:
    """In what was computed; what `auto` was on the machine of the run."""
    asked = {
        name: facts.setting("precision", name) for name in ("bfloat16", "float16", "float32", "fp16", "bf16")
    }
    pure = [name for name in ("bfloat16", "float16", "float32") if asked[name]]
    if asked["bf16"] == "full":
        pure = ["bfloat16"]
    half = "fp16" if asked["fp16"] else "bf16" if asked["bf16"] else "fp32"
    if half == "bf16" and asked["bf16"] == "auto":
        half = "bf16 (auto)" if (facts.record.get("hardware") or {}).get("has_bf16") else "fp32 (auto)"
    products = ", products of layers in fp8" if facts.setting("precision", "fp8") else ""
    return f"{f'{pure[0]}, all of it' if pure else half}{products}"


def _tell_batch(micro: int, accumulated: int, ranks: int) -> str:
    """How many sequences, and of which factors; none of them is named that is 1."""
    factors = ((micro, "a device"), (accumulated, "accumulated"), (ranks, "devices"))
    shown = " x ".join(f"{count} {what}" for count, what in factors if count > 1)
    return f"{micro * accumulated * ranks:,}{f': {shown}' if ' x ' in shown else ''}"


def _warmup(facts: Facts) -> str:
    steps, ratio = facts.setting("schedule", "warmup_steps"), facts.setting("schedule", "warmup_ratio")
    return f", {steps} steps of warm-up" if steps else f", {100 * ratio:g} % of warm-up" if ratio else ""


def _checks(facts: Facts) -> Iterator[str]:
    if facts.merge:
        yield f"## Merge\n\n{_tell_merge(facts.merge)}"
    if facts.quantize:
        yield f"## Quantization\n\n{_tell_quantization(facts.quantize)}"
    if facts.scores:
        yield f"## Evaluation\n\n{_tell_scores(facts.scores)}"
    if facts.marks:
        yield f"## Benchmarks\n\nAsked by lm-evaluation-harness.\n\n{_tell_marks(facts.marks)}"


def _tell_merge(merge: Mapping[str, Any]) -> str:
    adapters = [
        f"`{show_name(str(part.get('folder')))}` x {part.get('weight', 1):g}"
        for part in merge.get("adapters") or ()
    ]
    several = f"Merged were {', '.join(adapters)}. " if len(adapters) > 1 else ""
    verified = merge.get("verified")
    if not verified:
        return f"{several}The merged model was not held against base and adapter."
    return (
        f"{several}The merged model was held against base and adapter, over {verified.get('num_tokens', 0):,} tokens "
        f"({verified.get('samples', 'texts')}).\n\n{_tell_agreement(verified)}"
    )


def _tell_agreement(found: Mapping[str, Any]) -> str:
    rows = [
        ["largest difference of two logits", _figure(found, "max_error")],
        ["mean difference", _figure(found, "mean_error")],
        ["Kullback-Leibler divergence, nats a token", _figure(found, "kl")],
    ]
    if isinstance(found.get("same_token"), (int, float)):
        rows.append(["same likeliest token", f"{100 * found['same_token']:.2f} %"])
    return table(["measure", " value"], [row for row in rows if row[1]])


def _figure(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return f"{value:.2g}" if isinstance(value, (int, float)) else ""


def _tell_quantization(found: Mapping[str, Any]) -> str:
    """What `quantize.json` says, as far as it has the words that are known here."""
    checked = _part(found, "checked")
    pairs = [
        (_part(checked, "before").get(name), _part(checked, "after").get(name))
        for name in ("loss", "perplexity")
    ]
    rows = [
        ["weights on disk", *_change(found.get("bytes_before"), found.get("bytes_after"), show_size)],
        ["loss", *_change(*pairs[0], show_figure)],
        ["perplexity", *_change(*pairs[1], show_figure)],
    ]
    how = str(found.get("described") or found.get("method") or "")
    by = f", by {found['library']}" if found.get("library") else ""
    told = f"{how[:1].upper()}{how[1:]}{by}."
    if rows := [row for row in rows if len(row) > 1]:
        told += f"\n\n{table(['', ' before', ' after'], rows)}"
    for name, about in (
        ("agreement", "Held against the model before it was rounded:"),
        ("agreement_with_training", "Held against the model as it was trained, with layers that round:"),
    ):
        if agreement := _part(checked, name):
            told += f"\n\n{about}\n\n{_tell_agreement(agreement)}"
    return told if checked else f"{told}\n\nThe rounded model was not held against the one before."


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def _change(before: object, after: object, shown: Callable[[Any], str]) -> list[str]:
    """What a figure was, and what it is; empty where one is missing."""
    figures = [value for value in (before, after) if isinstance(value, (int, float))]
    return list(map(shown, figures)) if len(figures) == 2 else []


def _tell_scores(scores: Sequence[Mapping[str, Any]]) -> str:
    fixed = ("model", "split", "source", "rows", "target_tokens", "answers")
    names = list(dict.fromkeys(name for score in scores for name in score if name not in fixed))
    rows = [
        [
            str(score.get("model", "")),
            str(score.get("split", "")),
            show_name(str(score.get("source", ""))),
            f"{score.get('rows', 0):,}",
            *(show_figure(float(score[name])) if name in score else "" for name in names),
        ]
        for score in scores
    ]
    return table(
        ["model", "rows of", "data set", " rows", *(f" {name}" for name in names)],
        rows,
    )


def _tell_marks(marks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for mark in marks:
        error = mark.get("stderr")
        value = f"{mark.get('value', 0):.4f}" + (f" ± {error:.4f}" if error is not None else "")
        shots = mark.get("num_fewshot")
        rows.append(
            [
                str(mark.get("model", "")),
                str(mark.get("task", "")),
                str(mark.get("metric", "")),
                str(shots or 0),
                value,
            ]
        )
    return table(["model", "task", "metric", " shots", " value"], rows)


def _licences(facts: Facts) -> Iterator[str]:
    if not facts.base.name and not facts.data:
        return
    lines = []
    if facts.base.name:
        lines.append(f"- base, {_link(facts.base)}: {_licence(facts.base)}")
    lines += [
        f"- data, {_link(source.origin, 'datasets/')}: {_licence(source.origin)}" for source in facts.data
    ]
    own = "Whoever publishes these weights chooses their licence, within what the following ask."
    yield "## Licences\n\n" + own + "\n\n" + "\n".join(dict.fromkeys(lines))


def _licence(origin: Origin) -> str:
    if origin.license_link and origin.license != UNKNOWN:
        return f"[{origin.license}]({origin.license_link})"
    return origin.license


def _origin(facts: Facts) -> Iterator[str]:
    record = facts.record
    if not record:
        return
    machine = record.get("hardware") or {}
    devices, seconds = int(record.get("num_ranks") or 1), facts.finished.get("seconds")
    versions = record.get("versions") or {}
    commit = str(((record.get("code") or {}).get("siredon") or {}).get("commit") or "")
    rows = [
        ["hardware", f"{devices} x {machine.get('name', '')}" if machine.get("name") else ""],
        ["began", str(record.get("started", ""))[:10]],
        ["time", f"{timedelta(seconds=round(seconds))} (h:mm:ss)" if seconds else ""],
        ["Siredon", f"{record.get('siredon', '')}{f', commit {commit[:12]}' if commit else ''}"],
        ["libraries", ", ".join(f"{name} {versions[name]}" for name in _LIBRARIES if name in versions)],
    ]
    yield f"## Run\n\n{table(['what', 'value'], [row for row in rows if row[1]])}"


def _settings(facts: Facts) -> Iterator[str]:
    if not facts.given:
        return
    values = _shorten(redact_values(dict(facts.given)), "")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    shown = "\n".join(map(redact_line, text.rstrip().splitlines()))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    yield (
        "## Configuration\n\n<details>\n<summary>The YAML of the run; files without their folders</summary>\n\n"
        f"{fence}yaml\n{shown}\n{fence}\n\n</details>"
    )


def _shorten(value: Any, name: str) -> Any:
    """A value with last names in the place of paths of this machine."""
    if isinstance(value, Mapping):
        return {key: _shorten(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shorten(item, name) for item in value]
    if not isinstance(value, str) or "\n" in value:
        return value
    is_absolute = (
        value.startswith(("/", "~", "./", "../", "file:")) or re.match(r"[A-Za-z]:[\\/]", value) is not None
    )
    if is_absolute or (name.endswith(("path", "_dir", "_dirs", "files")) and _has_folder(value)):
        return show_name(value)
    return value


def _has_folder(value: str) -> bool:
    """A relative path, and no id of the hub."""
    return "://" not in value and "/" in value and (Path(value).exists() or Path(value).suffix != "")
