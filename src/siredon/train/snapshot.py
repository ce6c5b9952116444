"""What a checkpoint is made of, copied to RAM, so that it can be written while training goes on."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass

#: Beyond the copy itself, room in RAM for what page-locked memory is rounded up by.
ROUNDING = 2.0


def collect_weights(model: Any) -> dict[str, torch.Tensor] | None:
    """The tensors of a model that `save_pretrained` writes, by their names in the model; of an adapter, its own only.

    None if `save_pretrained` would write something else from these tensors than from the model.
    """
    whole: dict[str, torch.Tensor] = model.state_dict()
    if not isinstance(model, PeftModel):
        return whole
    # PEFT finds its own by name; the rest of the base need not be copied
    written = get_peft_model_state_dict(model)
    places = {tensor.data_ptr() for tensor in written.values()}
    chosen = {name: tensor for name, tensor in whole.items() if tensor.data_ptr() in places}
    if get_peft_model_state_dict(model, state_dict=chosen).keys() != written.keys():
        return None
    return chosen


def copy_to_ram(value: Any) -> Any:
    """A copy of nested values that later training does not change; what shared memory still does.

    What is on a device is copied to page-locked memory, which goes at the full speed of the bus.
    """
    copier = _Copier()
    copied = copier.copy(value)
    if copier.waits:
        torch.accelerator.synchronize()
    return copied


def count_bytes(value: Any) -> int:
    """Bytes of all tensors in nested values, each once."""
    found: dict[tuple[Any, ...], int] = {}

    def walk(inner: Any) -> None:
        if isinstance(inner, torch.Tensor):
            found[_key(inner)] = inner.numel() * inner.element_size()
        elif isinstance(inner, Mapping):
            for item in inner.values():
                walk(item)
        elif isinstance(inner, (list, tuple)):
            for item in inner:
                walk(item)

    walk(value)
    return sum(found.values())


class _Copier:
    """Copies nested values, and each tensor once."""

    def __init__(self) -> None:
        self.waits = False
        self._copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            key = _key(value)
            if key not in self._copies:
                self._copies[key] = self._copy_tensor(value.detach())
            return self._copies[key]
        if isinstance(value, Mapping):
            return {name: self.copy(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.copy(item) for item in value]
        if type(value) is tuple:
            return tuple(self.copy(item) for item in value)
        return copy.deepcopy(value)

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        # State of few bits: codes, scales and a table.  (A name of its own, as mypy takes the type for impossible.)
        has_parts: bool = is_traceable_wrapper_subclass(tensor)
        if has_parts:
            found: torch.Tensor = transform_subclass(  # type: ignore[no-untyped-call]
                tensor, lambda _, inner: self.copy(inner)
            )
            return found
        if tensor.device.type == "cpu":
            return tensor.clone()
        self.waits = True
        place = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return place.copy_(tensor, non_blocking=True)


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    """The same for tensors that are one: tied weights are to be written once."""
    if type(tensor) is not torch.Tensor and not isinstance(tensor, torch.nn.Parameter):
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride(), tensor.dtype)


class Worker:
    """One thread that writes, one save at a time, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins, once what was asked for before is done.

        Raises:
            BaseException: What ended the save before.
        """
        self.finish()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  (raised again by `check`, in the thread that trains)
                self._failure = error

        # No daemon: the end of the process waits for it
        self._thread = threading.Thread(target=run, name="save")
        self._thread.start()

    def wait(self) -> None:
        """Waits until all is written, and does not say whether it could be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Raises what ended a save, if one has failed.

        Raises:
            BaseException: That.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def finish(self) -> None:
        """Waits, and raises what ended the save.

        Raises:
            BaseException: That.
        """
        self.wait()
        self.check()
