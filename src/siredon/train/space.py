"""Room on the disk: can the output folder be written, do the checkpoints fit, and what a full disk comes to."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainingArguments

from siredon.config.sections.checkpoint import CheckpointSection
from siredon.errors import CheckpointError
from siredon.log import warn
from siredon.train.publish import list_checkpoints, measure_bytes

#: Below this much more than what is needed, a warning.
_MARGIN = 1.2
#: Settings, tokenizer, schedule, random state and log of a checkpoint, about.
_REST_BYTES = 2**20
#: What `torch.save` says when the disk does not take what it writes; it is no OSError.
_TORCH_SAYS = ("inline_container", "PytorchStreamWriter", "iostream error", "unexpected pos")
#: What the system says -> what is to be done; else the disk is full, or a quota is used up.
_WAYS = {
    errno.EROFS: "Let this user write there again",
    errno.EACCES: "Let this user write there again",
    errno.EPERM: "Let this user write there again",
    errno.EIO: "See to the disk, or choose another `output_dir`",
}
#: First letters of an optimizer's name -> bytes of state for each trained parameter; the first that fits counts.
#: What is on neither list is taken for none, as a run is refused only where room is surely missing.
_STATE_BYTES: dict[tuple[str, ...], float] = {
    ("adamw_torch_4bit", "ao_adamw_4bit"): 1.0,
    ("adamw_torch_8bit", "ao_adamw", "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit"): 2.0,
    ("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"): 1.0,
}
#: The same -> values of state for each trained parameter, in the format of the parameter.
_STATE_VALUES: dict[tuple[str, ...], int] = {
    ("adamw_torch", "paged_adamw_32bit", "stable_adamw", "optimi_adamw", "adopt_adamw", "adamw_bf16_sr"): 2,
    ("schedule_free_adamw", "schedule_free_radam"): 2,
    ("lion", "paged_lion_32bit", "muon", "dion", "schedule_free_sgd", "adagrad", "rmsprop"): 1,
}


@dataclass(frozen=True)
class Sizes:
    """What a run writes, in bytes.

    Args:
        weights: Trained weights, once.
        optimizer: State of the optimizer.
    """

    weights: int
    optimizer: int

    @property
    def checkpoint(self) -> int:
        """One checkpoint."""
        return self.weights + self.optimizer + _REST_BYTES


def check_writable(folder: Path) -> None:
    """Tries whether a folder can be written, or made.

    Raises:
        CheckpointError: It cannot.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".writing-") as stream:
            stream.write(b"0" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise CheckpointError(
            f"output_dir: {folder} cannot be written: {error.strerror or error}",
            "Choose another `output_dir`, or see to it that this user may write there and that the disk has room.",
        ) from error


def estimate_sizes(model: Any, optimizer: str, *, is_adapter: bool, saves_state: bool) -> Sizes:
    """About how many bytes a checkpoint has.

    Args:
        model: The module that is trained.
        optimizer: Its name in the YAML.
        is_adapter: Only what is trained is written.
        saves_state: The state of the optimizer is written too.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    written = trained if is_adapter else list(model.parameters())
    weights = sum(weight.numel() * weight.element_size() for weight in written)
    state = sum(weight.numel() * _state_bytes(optimizer, weight.element_size()) for weight in trained)
    return Sizes(weights, int(state) if saves_state else 0)


def _state_bytes(optimizer: str, element_size: int) -> float:
    """Bytes of state for one parameter."""
    for names, size in _STATE_BYTES.items():
        if optimizer.startswith(names):
            return size
    for names, count in _STATE_VALUES.items():
        if optimizer.startswith(names):
            return float(count * element_size)
    return 0.0


def check_space(sizes: Sizes, section: CheckpointSection, args: TrainingArguments, num_steps: int) -> None:
    """Compares what the run will write with the room there is.  A quota is not seen: only the disk is asked.

    Args:
        sizes: Of what is written.
        section: How often, and how many are kept.
        args: The same, as the trainer has it.
        num_steps: Optimizer steps of the run.

    Raises:
        CheckpointError: It does not fit, with the numbers and what would.
    """
    folder = section.output_folder
    num_saves = _count_saves(section, args, num_steps)
    # The new one is there before the oldest goes
    num_kept = min(num_saves, section.save_total_limit + 1)
    there = sum(measure_bytes(path) for path in list_checkpoints(folder)) if folder.is_dir() else 0
    needed = num_kept * sizes.checkpoint + sizes.weights
    free = read_free_bytes(folder) + (there if section.auto_resume_from_checkpoints else 0)
    if free >= needed * _MARGIN:
        return
    numbers = (
        f"output_dir: {folder} has {show_bytes(free)} of room, and the run will write about {show_bytes(needed)}: "
        f"{num_kept} checkpoint{'s' * (num_kept > 1)} of {show_bytes(sizes.checkpoint)} "
        f"and the weights, {show_bytes(sizes.weights)}"
    )
    if free >= needed:
        warn(numbers)
        return
    only_model = num_kept * (sizes.weights + _REST_BYTES) + sizes.weights
    ways = ["Make room", "choose another `output_dir`"]
    if num_kept > 2:
        ways.append(f"write `save_total_limit: 1` ({show_bytes(2 * sizes.checkpoint + sizes.weights)})")
    if sizes.optimizer:
        ways.append(f"or `save_only_model: true`, from which no run goes on ({show_bytes(only_model)})")
    raise CheckpointError(numbers, ", ".join(ways) + ".")


def _count_saves(section: CheckpointSection, args: TrainingArguments, num_steps: int) -> int:
    """At least this many checkpoints are written."""
    first = int(section.save_first_step)
    if section.strategy == "no":
        return first
    if section.strategy == "epoch":
        return max(1, math.ceil(args.num_train_epochs)) + first if args.max_steps <= 0 else 1 + first
    if section.strategy == "steps":
        return -(-num_steps // int(args.save_steps)) + first
    return 1 + first


def read_free_bytes(folder: Path) -> int:
    """Room on the disk that a folder is on, or would be."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    found = os.statvfs(place)
    free: int = found.f_bavail * found.f_frsize
    return free


@contextmanager
def explain_disk(what: Path) -> Iterator[None]:
    """Turns what a full or failing disk raises into an error with numbers.

    Args:
        what: The file or folder that is written inside.

    Raises:
        CheckpointError: It cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _TORCH_SAYS):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        way = _WAYS.get(error.errno or 0, "Make room") if isinstance(error, OSError) else "Make room"
        raise CheckpointError(
            f"{what} could not be written: {reason}; its disk has {show_bytes(read_free_bytes(what))} of room",
            f"{way}, and go on from the last whole checkpoint by `auto_resume_from_checkpoints: true`.",
        ) from error


def show_bytes(count: int) -> str:
    """For people."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
