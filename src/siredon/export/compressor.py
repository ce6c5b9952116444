"""Methods that round by rows of data: llm-compressor, in an environment of its own, is given these as a file.

Its pins do not fit beside ours.  What it writes, weights of compressed-tensors, is read by transformers and vLLM.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from siredon.config.schema import Config
from siredon.errors import DataError, ModelError
from siredon.evaluate.rows import prepare_rows
from siredon.export import compressor_job
from siredon.export.merge_base import load_merge_tokenizer
from siredon.export.method import Layers, Method, Options, Recipe
from siredon.export.source import Source
from siredon.log import note

#: The environment of `make compressor-env`.
USUAL_ENV = Path(".compressor-env")
#: Rows by which is rounded, at most.
_NUM_ROWS = 128
#: Of this process, not to be seen by the other.
_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_NUM_LINES = 6


def build_gptq_method() -> Method:
    """Weights in 4-bit whole numbers, each column rounded so that later ones make up for its error.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
    https://arxiv.org/abs/2210.17323.
    """

    def build(layers: Layers, options: Options) -> dict[str, Any]:
        group = options.weights_per_scale
        weights = {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": group,
        }
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        return {"config_groups": groups, "ignore": [layers.head] if layers.head else []}

    return Method(
        "compressed-tensors",
        describe=lambda options: (
            f"weights in int4, {options.weights_per_scale} to a scale, by rows of the data"
        ),
        recipe=Recipe("GPTQModifier", build, takes_group=True),
    )


def build_fp8_static_method() -> Method:
    """Weights and inputs in E4M3 floats, one scale for a whole tensor each; that of inputs is measured on the rows."""

    def build(layers: Layers, options: Options) -> dict[str, Any]:
        return {"targets": "Linear", "scheme": "FP8", "ignore": [layers.head] if layers.head else []}

    return Method(
        "compressed-tensors",
        describe=lambda options: "weights and inputs in fp8, a scale for each tensor, by rows of the data",
        recipe=Recipe("QuantizationModifier", build),
    )


@dataclass(frozen=True)
class Calibration:
    """By what a method rounds that takes rows of data.

    Args:
        python: Of the environment in which llm-compressor is.
        rows: Token ids.
    """

    python: Path
    rows: list[list[int]]


def prepare_calibration(config: Config, method: Method, folder: Path | None) -> Calibration | None:
    """The environment and rows that a method needs; None for one that needs neither.

    Args:
        config: The whole config of the run.
        method: The method.
        folder: The environment; None for `.compressor-env` here.

    Raises:
        ModelError: One of them is not here.
    """
    if method.recipe is None:
        return None
    return Calibration(find_python(folder), read_rows(config))


def find_python(folder: Path | None) -> Path:
    """The Python beside which llm-compressor is installed.

    Args:
        folder: Its environment; None for `.compressor-env` here.

    Raises:
        ModelError: It is not there.
    """
    python = (folder or USUAL_ENV).expanduser() / "bin" / "python"
    if not python.is_file():
        raise ModelError(
            f"llm-compressor is not there: {python}",
            "Build an environment for it: `make compressor-env` in a checkout, or `python -m venv .compressor-env` "
            "and `.compressor-env/bin/pip install llmcompressor`; or name one with `--compressor-env FOLDER`. "
            "`--method nf4` needs neither it nor data.",
        )
    return python.absolute()


def read_rows(config: Config) -> list[list[int]]:
    """Token ids of rows of the run's own training data, as training has them.

    Raises:
        ModelError: They are not here.
    """
    fix = "Name data: `datasets.0.path=rows.jsonl`; or use a method that needs none: `--method nf4`."
    if config.first_dataset.path == str(config.checkpoint.output_folder):
        raise ModelError("the method rounds by rows of data, and the model's own folder says of none", fix)
    try:
        rows = prepare_rows(config, load_merge_tokenizer(config), "training")[0]
    except DataError as error:
        raise ModelError(
            f"the method rounds by rows of data, and these cannot be read: {error.message}", fix
        ) from error
    packs = rows.packs
    samples = (sample for number in range(len(packs)) for sample in packs[number])
    return [list(map(int, sample.input_ids)) for sample in islice(samples, _NUM_ROWS)]


def compress(
    source: Source, recipe: Recipe, settings: dict[str, Any], calibration: Calibration, folder: Path
) -> None:
    """Rounds a model by rows, in a process of the other environment.

    Args:
        source: The model.
        recipe: Which class of llm-compressor does it.
        settings: Its arguments.
        calibration: The other environment, and the rows.
        folder: Where the model goes.

    Raises:
        ModelError: The process has failed.
    """
    rows = calibration.rows
    note(f"llm-compressor rounds by {len(rows):,} rows, {sum(map(len, rows)):,} tokens: minutes on a CPU")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        given, job = Path(name) / "rows.jsonl", Path(name) / "job.json"
        given.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows), encoding="utf-8")
        asked = {
            "model": str(source.folder.absolute()),
            "rows": str(given.absolute()),
            "output": str(folder.absolute()),
            "modifier": recipe.modifier,
            "settings": settings,
            "trusts_code": source.trusts_code,
        }
        job.write_text(json.dumps(asked), encoding="utf-8")
        variables = {key: value for key, value in os.environ.items() if key not in _HIDDEN}
        # In the folder that goes with the draft: llm-compressor writes its logs where it is started
        done = subprocess.run(
            [str(calibration.python), str(compressor_job.__file__), str(job.absolute())],
            env=variables,
            cwd=name,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-_NUM_LINES:])
        raise ModelError(f"llm-compressor has failed:\n{last}", "Use another method, such as `--method nf4`.")
