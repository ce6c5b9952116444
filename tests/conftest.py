"""One tiny model and tokenizer for the whole session, made from text that is in the repository."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.families import write_family

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Kernels in Triton run in its interpreter where no GPU is.  Triton reads this when it is imported, for the functions of
# its own, which some libraries do: it must stand here, and not beside the tests of the kernels.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Several test processes share few cores: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


_num_modules = 0


def pytest_runtest_setup() -> None:
    """Spares the garbage collection at the end of every training what libraries hold for good: half a second."""
    global _num_modules
    if len(sys.modules) > _num_modules + 200:
        _num_modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def build_tokenizer(
    bos: str | None = None, eos: str = "<|im_end|>", *, add_bos: bool = False, size: int = 512
) -> Any:
    """A byte-level BPE tokenizer trained on the quickstart's data."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rows = [json.loads(line) for line in (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()]
    texts = [message["content"] for row in rows for message in row["messages"]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [*CHATML_TOKENS, "<s>", "</s>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if add_bos:
        assert bos is not None
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token="<|endoftext|>"
    )


def build_model(vocab_size: int = 512, *, tied: bool = True, dtype: Any = None, seed: int = 0) -> Any:
    """A Llama of two layers with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.08,
    )
    return LlamaForCausalLM(config).to(dtype or torch.float32)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """ChatML tokens, no BOS."""
    built = build_tokenizer()
    from siredon.data.templates.chatml import TEMPLATE

    built.chat_template = TEMPLATE.source
    return built


@pytest.fixture(scope="session")
def model_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its tokenizer on disk."""
    folder = tmp_path_factory.mktemp("model")
    build_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def family_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a family -> the folder of a tiny model of it, written when first asked for."""
    written: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in written:
            written[name] = write_family(name, tmp_path_factory.mktemp(name), tokenizer)
        return written[name]

    return find


@pytest.fixture
def write_config(tmp_path: Path, model_folder: Path) -> Callable[..., Path]:
    """Writes a config of the tiny model on a few rows of the quickstart; keyword arguments change keys."""

    def write(name: str = "config.yml", **changes: Any) -> Path:
        import yaml

        rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()[:24]
        data = tmp_path / "rows.jsonl"
        data.write_text("\n".join(rows) + "\n")
        values = {
            "base_model": str(model_folder),
            "datasets": [{"path": str(data), "type": "chat_template"}],
            "dataset_prepared_path": str(tmp_path / "prepared"),
            "sequence_len": 256,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "lr_scheduler": "linear",
            "bf16": False,
            "logging_steps": 1,
            "output_dir": str(tmp_path / "out"),
            **changes,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not ...}))
        return path

    return write
