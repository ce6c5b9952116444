"""What each method of `siredon quantize` costs a run: size, loss, agreement and speed, before and after.

    python benchmarks/quantize.py RUN [--methods int8,nf4,...] [--output benchmarks/results/quantize_....md]

RUN is the folder of a run, such as `outputs/smollm2-life` of `examples/smollm2/life.sh`.  Each method writes a folder
of its own into a temporary one; the figures are those of its `quantize.json`.  A method that this machine does not
have, or that is refused, is named below the table with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from report import write_report

from siredon import release
from siredon.config.artifact import load_target
from siredon.errors import SiredonError
from siredon.export.quantize_wanted import Quantize
from siredon.hardware import probe_hardware

METHODS = "int8,int8_int8,llm_int8,fp8,int4,int4_int8,nf4,fp4,nvfp4"


def measure(run: Path, method: str, work: Path, env: Path | None) -> dict[str, Any]:
    """The report of one method."""
    wanted = Quantize(method, output=work / method, compressor_env=env)
    release.quantize(load_target(str(run))[0], wanted)
    report: dict[str, Any] = json.loads((work / method / "quantize.json").read_text())
    return report


def describe(report: dict[str, Any]) -> str:
    """A line of the table."""
    checked, after = report["checked"], report["checked"]["after"]
    agreement, speed = checked["agreement"], checked["after"]["tokens_per_second"]
    return (
        f"| `{report['method']}` | {report['bytes_after'] / 1e6:.1f} | {after['loss']:.4f} | "
        f"{after['perplexity']:.4f} | {agreement['kl']:.2g} | {100 * agreement['same_token']:.1f} % | "
        f"{speed['prefill']:.0f} | {speed['generation']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--compressor-env", type=Path, help="for the method gptq")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    reports, refused = [], []
    with tempfile.TemporaryDirectory() as name:
        for method in options.methods.split(","):
            try:
                reports.append(measure(options.run, method, Path(name), options.compressor_env))
            except SiredonError as error:
                refused.append(f"`{method}` was refused: {error.message.replace(name, '')}")
    write_page(reports, refused, options.run.name, options.output)


def write_page(reports: list[dict[str, Any]], refused: list[str], run: str, output: Path | None) -> None:
    """The page of some methods, and of those that were refused."""
    first = reports[0]
    before, hardware = first["checked"]["before"], probe_hardware()
    share = 100 * first["rounded_weights"] / first["weights"]
    speeds = [report["checked"]["before"]["tokens_per_second"] for report in reports]
    prefill, written = ([speed[key] for speed in speeds] for key in ("prefill", "generation"))
    packages = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("transformers", "torchao", "bitsandbytes")
    )
    write_report(
        [
            f"# Quantized models, {datetime.date.today()}",
            "",
            f"`benchmarks/quantize.py {run}`: {hardware.name} ({hardware.device}, {hardware.num_cores} "
            f"cores), torch {torch.__version__}, {packages}, {torch.get_num_threads()} threads.",
            f"Loss of {first['checked']['rows']}, {before['target_tokens']:,} target tokens; KL (nats a token) and the "
            f"likeliest token on {first['checked']['agreement']['num_tokens']:,} tokens of "
            f"{first['checked']['agreement']['samples']}.",
            f"{first['rounded_layers']} layers are rounded, {share:.1f} % of {first['weights']:,} weights; the rest is "
            "kept as it was.",
            "",
            "| method | MB | loss | perplexity | KL | same token | tokens/s read | tokens/s written |",
            "|---|---|---|---|---|---|---|---|",
            f"| before | {first['bytes_before'] / 1e6:.1f} | {before['loss']:.4f} | {before['perplexity']:.4f} | | | "
            f"{min(prefill):.0f} to {max(prefill):.0f} | {min(written):.1f} to {max(written):.1f} |",
            *map(describe, reports),
            "",
            "The model before was timed once beside each method, which shows how far speeds on this machine vary.",
            *(line for text in refused for line in ("", text)),
        ],
        output,
    )


if __name__ == "__main__":
    main()
