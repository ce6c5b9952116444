"""`siredon preprocess` as a whole process: alpaca rows cold and from the cache, and chat rows by the hundred thousand.

python benchmarks/prepare.py [--rows 10000] [--chats 20000 200000] [--output benchmarks/results/prepare_cpu_DATE.md]

The rows are those of `../shared/data/alpaca_en_demo.json`, repeated; the tokenizer is trained on them.  Beside it, the
same rows prepared in the plain way: `datasets`, one row at a time, prompt and answer tokenized apart, no packing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import write_report

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data/alpaca_en_demo.json"
SIREDON = str(Path(sys.executable).with_name("siredon"))

PLAIN = """
import sys
import datasets
from transformers import AutoTokenizer
folder, path = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
def make(row):
    more = f"### Input:\\n{row['input']}\\n\\n" if row["input"] else ""
    what = "paired with an input that provides further context. " if more else ""
    prompt = (
        f"Below is an instruction that describes a task{', ' if more else '. '}{what}"
        "Write a response that appropriately completes the request.\\n\\n"
        f"### Instruction:\\n{row['instruction']}\\n\\n{more}### Response:\\n"
    )
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    answer = tokenizer(row["output"], add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
    return {"input_ids": ids + answer, "labels": [-100] * len(ids) + answer}
rows = datasets.load_dataset("json", data_files=path, split="train", cache_dir=folder + "/cache")
rows.map(make, remove_columns=rows.column_names, load_from_cache_file=False)
"""


def write_tokenizer(folder: Path, texts: list[str]) -> None:
    """A byte-level BPE of 4,096 tokens, and a small Llama's config."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=4096, max_position_embeddings=2048).save_pretrained(folder)


def make_model(folder: str) -> None:
    rows = json.loads(DATA.read_text())
    write_tokenizer(Path(folder), [row["instruction"] + row["input"] + row["output"] for row in rows])


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of a process, and the most memory it held, in MB."""
    began = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        sys.exit((folder / "log.txt").read_text())
    return seconds, usage.ru_maxrss * 1024 / 1e6


def write_config(folder: Path, name: str, entry: str) -> str:
    path = folder / f"{name}.yml"
    path.write_text(
        f"base_model: {folder}\nlearning_rate: 1e-4\nsequence_len: 1024\nsample_packing: true\n"
        f"dataset_prepared_path: prepared-{name}\ndatasets:\n  - {entry}\nchat_template: chatml\n"
    )
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--chats", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = json.loads(DATA.read_text())
    lines = [
        "# `siredon preprocess`: time and memory of the whole command",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
        "| process | rows | s | of the plain way | peak MB | us a row |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A child counts what its parent held as its own: the parent stays small
        made = [
            sys.executable,
            "-c",
            "import sys; from prepare import make_model; make_model(sys.argv[1])",
            name,
        ]
        subprocess.run(made, check=True, cwd=Path(__file__).parent)
        repeated = (rows * (options.rows // len(rows) + 1))[: options.rows]
        data = folder / "alpaca.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in repeated))
        config = write_config(folder, "alpaca", f"{{path: {data}, type: alpaca}}")
        plain = measure([sys.executable, "-c", PLAIN, str(folder), str(data)], folder)
        found = [("plain way: `datasets`, row by row, unpacked", options.rows, *plain)]
        found.append(("alpaca, cold", options.rows, *measure([SIREDON, "preprocess", config], folder)))
        found.append(
            ("alpaca, from the cache", options.rows, *measure([SIREDON, "preprocess", config], folder))
        )
        for count in options.chats:
            data = folder / f"chats{count}.jsonl"
            with data.open("w") as file:
                for number in range(count):
                    one, two = rows[number % len(rows)], rows[(7 * number + 1) % len(rows)]
                    talk = [
                        {"role": role, "content": text or "-"}
                        for row in (one, two)
                        for role, text in (("user", row["instruction"]), ("assistant", row["output"][:200]))
                    ]
                    file.write(json.dumps({"messages": talk}) + "\n")
            config = write_config(folder, f"chats{count}", f"{{path: {data}, type: chat_template}}")
            found.append(
                ("chats of two turns, cold", count, *measure([SIREDON, "preprocess", config], folder))
            )
    for what, count, seconds, memory in found:
        ratio = f"{seconds / plain[0]:.2f}" if count == options.rows else ""
        lines.append(
            f"| {what} | {count:,} | {seconds:.1f} | {ratio} | {memory:.0f} | {1e6 * seconds / count:.0f} |"
        )
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
