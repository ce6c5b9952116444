"""`siredon train` next to plain `transformers.Trainer`: same weights, same packed batches, same machine, same run.

    python benchmarks/train.py --tokenizer FOLDER --data alpaca.json [--shape 1b|tiny] [--output results.md]

The base is a Llama of random weights, made from a config folder with `reinit_weights: true`.  First parity: the
losses of the first steps must agree.  Then speed: each cell is a process of its own, the two take turns twice,
and the median of the log lines after the warm-up counts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    # Llama 3.2 1B
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rope_theta": 500000.0,
    },
    # Llama 3.1 8B
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    # SmolLM2 135M
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "rope_theta": 100000.0,
    },
    "tiny": {
        "vocab_size": 49152,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_theta": 10000.0,
    },
}
LORA = {"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}


def write_model(folder: Path, tokenizer: Path, shape: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
        **shape,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())


def write_config(path: Path, options: argparse.Namespace, adapter: dict[str, Any], output: Path) -> None:
    import yaml

    values = {
        "base_model": str(options.work / "model"),
        "reinit_weights": True,
        # The same rows several times, as data sets of their own, for enough packs.
        "datasets": [{"path": str(options.data), "type": "alpaca"}] * options.repeats,
        "dataset_prepared_path": str(options.work / "prepared"),
        "sequence_len": options.length,
        "sample_packing": True,
        "micro_batch_size": options.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "learning_rate": 1e-4 if adapter else 2e-5,
        "lr_scheduler": "constant",
        "warmup_steps": 0,
        "optimizer": "adamw_torch_fused",
        "bf16": True,
        "logging_steps": 5,
        "save_strategy": "no",
        "output_dir": str(output),
        **adapter,
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_ours(options: argparse.Namespace, adapter: dict[str, Any], name: str) -> list[dict[str, Any]]:
    output = options.work / f"ours-{name}"
    config = options.work / f"ours-{name}.yml"
    write_config(config, options, adapter, output)
    run([sys.executable, "-m", "siredon", "train", str(config)])
    return [row for row in read_metrics(output / "metrics.jsonl") if "loss" in row]


def run_plain(options: argparse.Namespace, adapter: dict[str, Any], name: str) -> list[dict[str, Any]]:
    output = options.work / f"plain-{name}.jsonl"
    config = options.work / f"plain-{name}.yml"
    write_config(config, options, adapter, options.work / f"plain-{name}")
    run([sys.executable, __file__, "--plain", str(config), str(output)])
    return read_metrics(output)


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def train_plain(config_path: str, output: str) -> None:
    """What a user of transformers writes: `Trainer`, the model's own loss, the same batches."""
    import torch
    import transformers

    from siredon.config.load import load_config
    from siredon.data.prepare import Preparation, prepare_data
    from siredon.hardware import probe_hardware, read_peak_bytes
    from siredon.model.adapt import attach_adapter_
    from siredon.model.load import Source, load_model
    from siredon.model.tokenizer import load_tokenizer

    config, _ = load_config(config_path)
    hardware = probe_hardware()
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    prepared = prepare_data(Preparation(tokenizer, None, config.data), config.packing, config.batch.seed)
    model = load_model(Source.of(config), torch.bfloat16, tokenizer, hardware, seed=config.batch.seed)
    model = attach_adapter_(model, config.adapter, seed=config.batch.seed)
    rows: list[dict[str, Any]] = []
    clock = {"time": 0.0, "tokens": 0, "seen": 0}

    def collate(packs: Any) -> dict[str, Any]:
        batch = dict(prepared.collator(packs))
        clock["seen"] += int(batch.pop("num_tokens").sum())
        return batch

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock["time"] = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return
            now, seen = time.perf_counter(), clock["seen"]
            speed = (seen - clock["tokens"]) / (now - clock["time"])
            clock.update(time=now, tokens=seen)
            peak = round(read_peak_bytes(hardware) / 2**30, 3)
            rows.append(
                {"step": state.global_step, **logs, "tokens_per_second": speed, "peak_memory_gib": peak}
            )

    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(Path(output).with_suffix("")),
            per_device_train_batch_size=config.batch.micro_batch_size,
            max_steps=config.batch.max_steps or 1,
            learning_rate=config.optimizer.learning_rate,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            bf16=True,
            tf32=True if hardware.is_gpu else None,
            use_cpu=not hardware.is_gpu,
            logging_steps=5,
            logging_first_step=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=config.batch.seed,
            dataloader_pin_memory=hardware.is_gpu,
        ),
        train_dataset=prepared.train,
        data_collator=collate,
        callbacks=[Clock()],
    )
    trainer.train()
    Path(output).write_text("".join(json.dumps(row, default=float) + "\n" for row in rows))


def speed_of(rows: list[dict[str, Any]], warmup: int) -> float:
    return statistics.median(row["tokens_per_second"] for row in rows if row["step"] > warmup)


def compare(options: argparse.Namespace) -> list[str]:
    lines = []
    for name, adapter in (("full", {}), ("LoRA r16", LORA)):
        slug = name.split()[0].lower()
        ours, plain = [], []
        for turn in range(options.turns):
            order = (run_ours, run_plain) if turn % 2 == 0 else (run_plain, run_ours)
            for cell in order:
                began = time.perf_counter()
                rows = cell(options, adapter, f"{slug}-{turn}")
                (ours if cell is run_ours else plain).append(rows)
                seconds = time.perf_counter() - began
                speed = speed_of(rows, options.warmup)
                print(
                    f"{cell.__name__} {slug} {turn}: {speed:,.0f} tok/s, {seconds:.0f} s in all",
                    file=sys.stderr,
                )
        losses = [[row["loss"] for row in cell[0]] for cell in (ours, plain)]
        apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
        a, b = (statistics.median(speed_of(rows, options.warmup) for rows in cell) for cell in (ours, plain))
        memory = [max(row["peak_memory_gib"] for row in cell[0]) for cell in (ours, plain)]
        line = (
            f"| {name} | {a:,.0f} | {b:,.0f} | {a / b:.3f} | {memory[0]:.1f} / {memory[1]:.1f} "
            f"| {losses[0][0]:.4f} / {losses[1][0]:.4f} | {losses[0][-1]:.4f} / {losses[1][-1]:.4f} | {apart:.4f} |"
        )
        print(line, flush=True)
        lines.append(line)
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--plain"]:
        train_plain(sys.argv[2], sys.argv[3])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--work", type=Path, default=Path("/tmp/siredon-benchmark"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    write_model(options.work / "model", options.tokenizer, SHAPES[options.shape])
    import accelerate
    import peft
    import torch
    import transformers

    from siredon.hardware import probe_hardware

    hardware = probe_hardware()
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, peft, accelerate))
    head = [
        f"# `siredon train` next to plain `transformers.Trainer`, {datetime.date.today().isoformat()}",
        "",
        f"{hardware.name}; {versions}. Llama {options.shape}, random weights, bf16, packed alpaca rows, "
        f"{options.length} x {options.batch} tokens a step, {options.steps} steps, median after step "
        f"{options.warmup}, {options.turns} turns each. Useful tokens per second (padding left out).",
        "",
        "| cell | siredon tok/s | Trainer tok/s | ratio | peak GiB | loss step 1 | loss last 5 | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head), flush=True)
    lines = compare(options)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
