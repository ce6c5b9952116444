"""`siredon quantize CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siredon.cli.options import OPEN, Target
from siredon.cli.read import read_target
from siredon.export.quantize_wanted import Quantize


def quantize(  # noqa: PLR0913 - one for each option
    words: Target = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="int8, int8_int8, int4, int4_int8, fp8, fp8_fp8, nvfp4, nf4, fp4, llm_int8, gptq ...; default: what "
            "`quantization` or `qat` in CONFIG says.",
            show_default=False,
        ),
    ] = None,
    weight_dtype: Annotated[
        str | None, typer.Option(help="As `quantization.weight_dtype`.", show_default=False)
    ] = None,
    activation_dtype: Annotated[
        str | None, typer.Option(help="As `quantization.activation_dtype`.", show_default=False)
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(min=1, help="Weights that share a scale.", show_default=False)
    ] = None,
    quantize_embedding: Annotated[
        bool, typer.Option("--quantize-embedding", help="Round embeddings too.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder to write; default `quantized` in `output_dir`.", show_default=False),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write `quantized` in this folder.", show_default=False)
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Round this model in place of the run's.", show_default=False)
    ] = None,
    compressor_env: Annotated[
        Path | None,
        typer.Option(help="Environment in which llm-compressor is.", show_default="`.compressor-env`"),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Measure loss, agreement and speed, before and after.")] = True,
    max_kl: Annotated[
        float | None,
        typer.Option(
            min=0, help="The most that the models may differ: nats a token, on average.", show_default=False
        ),
    ] = None,
) -> None:
    """Round the weights of CONFIG's model to few bits: a normal model folder in `output_dir/quantized`."""
    formats = {"weight_dtype": weight_dtype, "activation_dtype": activation_dtype}
    if method is not None and any(formats.values()):
        raise typer.BadParameter(
            "--method says the formats already: leave --weight-dtype and --activation-dtype out"
        )
    if output is not None and output_dir is not None:
        raise typer.BadParameter("--output and --output-dir both say where: leave one out")
    if max_kl is not None and not verify:
        raise typer.BadParameter("--max-kl needs the check: leave --no-verify out")
    settings = (
        {}
        if method
        else {**formats, "group_size": group_size, "quantize_embedding": quantize_embedding or None}
    )
    laid = [f"quantization.{key}={value}" for key, value in settings.items() if value is not None]
    checked = read_target([*(words or []), *laid], keeps=("qat", "quantization"))
    from siredon import release

    place = output_dir / "quantized" if output_dir is not None else output
    asked = (group_size, quantize_embedding) if method else (None, False)
    release.quantize(checked, Quantize(method, *asked, place, base_model, compressor_env, verify, max_kl))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(context_settings=OPEN)(quantize)
