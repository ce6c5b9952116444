"""The k-quants of GGUF, by llama.cpp itself: the tool `llama-quantize`, or the same code in llama-cpp-python."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from siredon.errors import ModelError
from siredon.export.gguf_types import PLAIN
from siredon.log import note

_TOOL = "llama-quantize"


def find_quantizer(word: str) -> Callable[[Path, Path], None]:
    """What turns a file of whole weights into one of the type.

    Raises:
        ModelError: Neither the tool nor the package is there.
    """
    tool = shutil.which(_TOOL)
    if tool is not None:
        return lambda whole, path: _run_tool(tool, whole, path, word)
    if importlib.util.find_spec("llama_cpp") is not None:
        return lambda whole, path: _call_library(whole, path, word)
    raise ModelError(
        f"--type {word} is written by llama.cpp, and neither `{_TOOL}` is on the PATH nor llama-cpp-python installed",
        f"Install llama.cpp (`brew install llama.cpp`, or a release of it), or `pip install llama-cpp-python`; "
        f"without it there are {', '.join(PLAIN)}.",
    )


def _run_tool(tool: str, whole: Path, path: Path, word: str) -> None:
    note(f"{tool}: {word}")
    done = subprocess.run(
        [tool, str(whole), str(path), word.upper()], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not path.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no word of why").splitlines()[-1]
        raise ModelError(f"{tool} has failed: {last}", "Try another `--type`.")


def _call_library(whole: Path, path: Path, word: str) -> None:
    import llama_cpp

    note(f"llama-cpp-python {llama_cpp.__version__}: {word}")
    settings = llama_cpp.llama_model_quantize_default_params()
    kind = word.upper() if word == "q6_k" or word == "q2_k" else f"{word[:4].upper()}_{word[5:].upper()}"
    settings.ftype = vars(llama_cpp)[f"LLAMA_FTYPE_MOSTLY_{kind}"]
    code = llama_cpp.llama_model_quantize(str(whole).encode(), str(path).encode(), ctypes.byref(settings))
    if code != 0 or not path.is_file():
        raise ModelError(f"llama.cpp could not write {word}: code {code}", "Try another `--type`.")
