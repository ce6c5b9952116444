"""LoRA beside a frozen base in few bits, and every weight trained: steps, loss, speed, peak of `siredon train`.

    python benchmarks/qlora.py [--shape 8b|tiny] [--ways nf4 8bit torchao-int4 bf16 full] [--steps 20]

The base is a Llama 3 of 8 B random weights, written layer by layer into a folder of safetensors (16 GB), so that no
hub is asked.  Each way is a process of its own, so that its peak is its own.  Results: benchmarks/results/, as JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHAPES: dict[str, dict[str, int]] = {
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
LORA = {"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}
WAYS: dict[str, dict[str, Any]] = {
    "nf4": {**LORA, "adapter": "qlora", "load_in_4bit": True},
    "8bit": {**LORA, "load_in_8bit": True},
    "torchao-int8": {**LORA, "load_in_torchao": "int8"},
    "torchao-fp8": {**LORA, "load_in_torchao": "fp8"},
    "torchao-int4": {**LORA, "load_in_torchao": "int4"},
    "bf16": LORA,
    "full": {"optimizer": "adamw_bf16_sr", "learning_rate": 1e-5},
}


def write_model(folder: Path, shape: dict[str, int]) -> None:
    """Random weights of a Llama 3 in bfloat16, a file a layer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    narrow = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]

    def draw(rows: int, columns: int) -> torch.Tensor:
        numbers = torch.randn(rows, columns, generator=generator, device=device, dtype=torch.float32)
        return (0.02 * numbers).to(torch.bfloat16).cpu()

    def ones() -> torch.Tensor:
        return torch.ones(hidden, dtype=torch.bfloat16)

    index: dict[str, str] = {}

    def write(name: str, weights: dict[str, torch.Tensor]) -> None:
        save_file(weights, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(weights, name))

    ends = {
        name: draw(shape["vocab_size"], hidden) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    write("ends.safetensors", {**ends, "model.norm.weight": ones()})
    for layer in range(shape["num_hidden_layers"]):
        sizes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        start = f"model.layers.{layer}"
        weights = {f"{start}.{name}.weight": draw(*size) for name, size in sizes.items()}
        weights |= {
            f"{start}.{name}.weight": ones() for name in ("input_layernorm", "post_attention_layernorm")
        }
        write(f"layer-{layer:02}.safetensors", weights)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
        **shape,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of single bytes: the text does not matter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    wrapped.save_pretrained(folder)


def write_config(path: Path, options: argparse.Namespace, way: str) -> Path:
    """A run of this way; its output folder."""
    import yaml

    rows = path.parent / "rows.jsonl"
    dice = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz     "
    texts = ["".join(dice.choices(letters, k=options.length - 1)) for _ in range(options.steps + 2)]
    rows.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    output = path.parent / f"out-{way}"
    values = {
        "base_model": str(options.work / f"model-{options.shape}"),
        "datasets": [{"path": str(rows), "type": "completion"}],
        "dataset_prepared_path": str(path.parent / "prepared"),
        "sequence_len": options.length,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "learning_rate": 2e-4,
        "lr_scheduler": "constant",
        "warmup_steps": 0,
        "optimizer": "adamw_torch_fused",
        "bf16": options.shape != "tiny",
        "gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": str(output),
        **WAYS[way],
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return output


def run_way(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """One run, as a user starts it; its figures are those of its own log."""
    path = options.work / f"{way}.yml"
    output = write_config(path, options, way)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "siredon", "train", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{way}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    settled = rows[min(5, len(rows) - 1) :]
    return {
        "way": way,
        "steps": len(rows),
        "loss_first": rows[0]["loss"],
        "loss_last": rows[-1]["loss"],
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in settled),
        "peak_gib": max(row["peak_memory_gib"] for row in rows),
        "seconds_whole": round(time.perf_counter() - began, 1),
        "losses": [row["loss"] for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=["nf4"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--work", type=Path, default=Path("/tmp/siredon-qlora"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    import bitsandbytes
    import peft
    import torch
    import transformers

    from siredon.hardware import probe_hardware

    began = time.perf_counter()
    folder = options.work / f"model-{options.shape}"
    if not (folder / "config.json").is_file():
        write_model(folder, SHAPES[options.shape])
        write_tokenizer(folder)
    print(f"model written in {time.perf_counter() - began:.0f} s", flush=True)
    hardware = probe_hardware()
    found = []
    for way in options.ways:
        found.append(run_way(options, way))
        print(json.dumps(found[-1]), flush=True)
    today = datetime.date.today().isoformat()
    report = {
        "what": f"Llama {options.shape}, random weights, LoRA r16 on all linear layers, {options.length} tokens x 1, "
        "gradient checkpointing",
        "device": hardware.name,
        "versions": {
            module.__name__: module.__version__ for module in (torch, transformers, peft, bitsandbytes)
        },
        "date": today,
        "runs": found,
    }
    short = "".join(
        letter
        for letter in hardware.name.split()[-1 if not hardware.is_gpu else 1].lower()
        if letter.isalnum()
    )
    output = options.output or ROOT / "benchmarks/results" / f"qlora_{short}_{today}.json"
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(output)


if __name__ == "__main__":
    main()
