"""An ONNX graph says what the model says, for any number of texts of any length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from siredon.errors import ModelError
from siredon.export.formats.onnx import Session, export_onnx
from siredon.export.source import Source
from siredon.export.wanted import Wanted


@pytest.mark.long
def test_a_graph_is_the_model(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from transformers import AutoModelForCausalLM

    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = export_onnx(Source(model_folder, tmp_path), Wanted("onnx"))
    assert {"model.onnx", "model.onnx.data", "config.json", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    output = capsys.readouterr().out
    assert "a padded batch" in output
    assert "24 of 24 tokens the same" in output
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    ids = torch.randint(0, 500, (3, 41), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            Session(folder / "model.onnx")(ids).logits, model(ids).logits, rtol=0, atol=1e-4
        )


def test_only_f32_is_written(model_folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"ONNX is written in f32|--format onnx needs"):
        export_onnx(Source(model_folder, tmp_path), Wanted("onnx", "q8_0"))
