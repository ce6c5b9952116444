"""`--format onnx`: one graph for ONNX Runtime, by the exporter of transformers."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from siredon.errors import ModelError
from siredon.export.file import check_replaceable
from siredon.export.folder import copy_record, written_beside
from siredon.export.gguf_types import BOUNDS
from siredon.export.gguf_vocab import read_template
from siredon.export.round_trip import (
    TEXTS,
    Check,
    ask,
    compare_answers,
    compare_ids,
    encode,
    measure_error,
    render,
    show_checks,
)
from siredon.export.shards import copy_rest
from siredon.export.source import Source
from siredon.export.wanted import Wanted
from siredon.log import note

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_BOUND = BOUNDS["F32"].logits


class Session:
    """A graph in ONNX Runtime, called as the model that it was."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor | None = None, *, use_cache: bool = False
    ) -> Any:
        """Logits, fp32 `(batch, tokens, vocabulary)`, for int64 `(batch, tokens)`."""
        mask = torch.ones_like(ids) if mask is None else mask
        (logits,) = self._session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        return SimpleNamespace(logits=torch.from_numpy(logits))


def export_onnx(source: Source, wanted: Wanted) -> Path:
    """Writes the graph, in fp32 and without a cache, runs it, and puts it in its place if it says what the model says.

    Raises:
        ModelError: A package is missing, the type is not f32, or the graph is not the same model.
    """
    _check(wanted)
    tokenizer = source.load_tokenizer()
    prompt = encode(tokenizer, render(tokenizer, read_template(tokenizer)))
    texts = [encode(tokenizer, text) for text in TEXTS]
    model = source.load_model(torch.float32)
    answers = ask(model, prompt, texts)
    folder = wanted.output or source.run / "onnx"
    check_replaceable(folder)
    with written_beside(folder) as draft:
        _trace(model).save_pretrained(draft)
        copy_rest(source, draft, torch.float32)
        copy_record(source.run, draft)
        note("reading it back")
        session = Session(draft / "model.onnx")
        reader = Source(draft, draft, source.trusts_code).load_tokenizer()
        checks = [
            compare_ids("token ids", tokenizer, TEXTS, lambda text: encode(reader, text)),
            *compare_answers(answers, ask(session, prompt, texts, answers), _BOUND),
            _compare_padded(model, session, texts),
        ]
        show_checks(folder.name, checks)
    return folder


def _check(wanted: Wanted) -> None:
    missing = [name for name in (*_PACKAGES, "transformers.exporters") if not _is_installed(name)]
    if missing:
        raise ModelError(
            f"--format onnx needs {', '.join(missing)}",
            "pip install 'siredon[onnx]', which wants transformers 5.23 or newer",
        )
    if wanted.type not in (None, "f32"):
        raise ModelError(f"--type {wanted.type}: ONNX is written in f32", "Leave `--type` out.")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _trace(model: Any) -> Any:
    """The graph, for any number of texts of any length."""
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    ids = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    free = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    shapes = {"input_ids": free, "attention_mask": free}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # It tells its own steps, on stdout
            warnings.simplefilter("ignore")
            return OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic_shapes=shapes))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"--format onnx: transformers cannot trace this model: {next(iter(str(error).splitlines()), '')}",
            "Use another format.",
        ) from error
    finally:
        logger.setLevel(level)


def _compare_padded(model: Any, session: Session, texts: list[list[int]]) -> Check:
    """Two texts of different lengths at once, the shorter one padded."""
    pair = sorted(texts, key=len)[:2]
    length = len(pair[1])
    ids = torch.tensor([text + [0] * (length - len(text)) for text in pair])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in pair])
    with torch.inference_mode():
        ours = model(ids, attention_mask=mask, use_cache=False).logits.float()[mask.bool()]
    error = measure_error(ours, session(ids, mask).logits[mask.bool()])
    return Check("a padded batch", f"relative error {error:.2g}", f"<= {_BOUND:g}", error <= _BOUND)


EXPORT = export_onnx
