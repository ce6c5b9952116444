"""What waits elsewhere until it is needed: activations in RAM or on disk, frozen weights of layers in RAM."""

from __future__ import annotations

import shutil
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from siredon.errors import ModelError
from siredon.hardware import SideStream
from siredon.model.packed import PackedExperts
from siredon.model.recompute import find_layers

#: Smaller tensors stay: their copies cost more time than they free memory.
SMALLEST_BYTES = 256 * 1024
#: Copies to RAM that may be under way at once, and tensors fetched before they are asked for.
_IN_FLIGHT = 2

Undo = Callable[[], None]


class Park(Protocol):
    """Where saved tensors wait.  `unpack(pack(x))` equals x, bit for bit, on the device of x."""

    def pack(self, tensor: torch.Tensor) -> Any:
        """Takes a tensor, and gives what stands for it."""

    def unpack(self, parked: Any) -> torch.Tensor:
        """The tensor again."""


class _Entry:
    """A tensor in RAM, and its copy on the device if that has been fetched."""

    __slots__ = ("__weakref__", "device", "fetched", "host", "number")

    def __init__(self, number: int, host: torch.Tensor, device: torch.device) -> None:
        self.number = number
        self.host = host
        self.device = device
        self.fetched: tuple[torch.Tensor, Any] | None = None


class RamPark:
    """Tensors wait in RAM: pinned, and copied by a stream of their own, where there is a GPU.

    A tensor's memory is freed when its copy is made; the compute stream waits for all but the last few copies, so
    that memory does not depend on how far the CPU runs ahead.  The backward pass asks in reverse order: what was
    packed before is fetched ahead.

    Args:
        side: The stream that copies; None copies on the stream that computes.
        pinned: Whether the RAM is pinned, as copies beside computing need it.
    """

    def __init__(self, side: SideStream | None, *, pinned: bool) -> None:
        self._side = side
        self._pinned = pinned
        self._numbers = count()
        self._entries: weakref.WeakValueDictionary[int, _Entry] = weakref.WeakValueDictionary()
        self._leaving: deque[tuple[torch.Tensor, Any]] = deque()

    def pack(self, tensor: torch.Tensor) -> _Entry:
        """Copies to RAM."""
        host = torch.empty_like(tensor, device="cpu", pin_memory=self._pinned, requires_grad=False)
        if self._side is None:
            host.copy_(tensor.detach(), non_blocking=self._pinned)
        else:
            with self._side.after_compute():
                host.copy_(tensor.detach(), non_blocking=True)
            self._leaving.append((tensor.detach(), self._side.mark()))
            while len(self._leaving) > _IN_FLIGHT:
                self._side.let_compute_wait(self._leaving.popleft()[1])
        entry = _Entry(next(self._numbers), host, tensor.device)
        self._entries[entry.number] = entry
        return entry

    def unpack(self, parked: _Entry) -> torch.Tensor:
        """Copies back, and begins to fetch what will be asked for next."""
        while self._leaving and self._side is not None:
            self._side.let_compute_wait(self._leaving.popleft()[1])
        if self._side is None:
            return parked.host.to(parked.device, non_blocking=self._pinned, copy=True)
        self._fetch(parked)
        assert parked.fetched is not None
        tensor, arrival = parked.fetched
        parked.fetched = None
        self._side.let_compute_wait(arrival)
        for number in range(parked.number - 1, parked.number - 1 - _IN_FLIGHT, -1):
            earlier = self._entries.get(number)
            if earlier is not None:
                self._fetch(earlier)
        return tensor

    def _fetch(self, entry: _Entry) -> None:
        if entry.fetched is None and self._side is not None:
            with self._side.after_compute():
                tensor = entry.host.to(entry.device, non_blocking=True, copy=True)
            entry.fetched = (tensor, self._side.mark())


@dataclass(frozen=True, eq=False)
class _File:
    path: Path
    dtype: torch.dtype
    shape: torch.Size
    device: torch.device


class DiskPark:
    """Tensors wait in files, each deleted when nothing will ask for it any more.

    Args:
        folder: For these files alone: it is emptied now, and removed when the process ends.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._folder = folder
        self._numbers = count()

    def pack(self, tensor: torch.Tensor) -> _File:
        """Writes a file."""
        path = self._folder / f"{next(self._numbers)}.bin"
        flat = tensor.detach().cpu().contiguous().flatten()
        flat.view(torch.uint8).numpy().tofile(path)
        parked = _File(path, tensor.dtype, tensor.shape, tensor.device)
        weakref.finalize(parked, path.unlink, missing_ok=True)
        return parked

    def unpack(self, parked: _File) -> torch.Tensor:
        """Reads it."""
        flat = torch.from_numpy(np.fromfile(parked.path, dtype=np.uint8)).view(parked.dtype)
        return flat.view(parked.shape).to(parked.device)


class Saver:
    """Parks what autograd saves, but for weights and what is small.

    Args:
        park: Where tensors wait.
        model: Its weights stay where they are.
        device: Only tensors of this kind of device are parked.
        smallest_bytes: Smaller ones stay.
    """

    def __init__(
        self, park: Park, model: torch.nn.Module, device: str, smallest_bytes: int = SMALLEST_BYTES
    ) -> None:
        self._park = park
        self._model = model
        self._device = device
        self._smallest_bytes = smallest_bytes
        self._weights: frozenset[int] = frozenset()

    def open(self) -> AbstractContextManager[Any]:
        """What is saved inside is parked."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def look_at_weights(self) -> None:
        """Learns where the weights lie; they may have been moved since."""
        plain = (weight for weight in self._model.parameters() if not isinstance(weight, PackedExperts))
        self._weights = frozenset(weight.untyped_storage().data_ptr() for weight in plain)

    def _pack(self, tensor: torch.Tensor) -> Any:
        if (
            isinstance(tensor, PackedExperts)  # frozen weights, of several pieces of memory
            or tensor.device.type != self._device
            or tensor.nbytes < self._smallest_bytes
            or tensor.untyped_storage().data_ptr() in self._weights
        ):
            return tensor
        return _Parked(self._park.pack(tensor))

    def _unpack(self, saved: Any) -> torch.Tensor:
        if isinstance(saved, _Parked):
            return self._park.unpack(saved.inner)
        assert isinstance(saved, torch.Tensor)
        return saved


@dataclass(frozen=True, eq=False)
class _Parked:
    inner: Any


def park_activations_(model: torch.nn.Module, saver: Saver) -> Undo:
    """Parks all that a forward pass of the model saves for the backward pass.

    Args:
        model: The module that is called, an adapter's wrapper included: it calls the model inside past its hooks.
        saver: What parks.

    Returns:
        Takes it back.
    """
    opened: list[AbstractContextManager[Any]] = []

    def enter(module: torch.nn.Module, inputs: Any) -> None:
        if torch.is_grad_enabled():
            saver.look_at_weights()
            opened.append(saver.open())
            opened[-1].__enter__()

    def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if opened:
            opened.pop().__exit__(None, None, None)

    handles = (
        model.register_forward_pre_hook(enter, prepend=True),
        model.register_forward_hook(leave, always_call=True),
    )

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


class LayerPark:
    """The frozen weights of one layer: in RAM, and on the device only while the layer computes.

    A weight stays the same tensor throughout; the memory behind it is freed and filled again, so that what
    autograd has saved of it, views too, sees the weight again in the backward pass.
    """

    def __init__(self, layer: torch.nn.Module, device: torch.device, side: SideStream | None) -> None:
        self.is_here = False
        self.in_backward = False
        self._side = side
        self._arrival: Any = None
        self._weights: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []
        self.num_bytes = 0
        seen: set[int] = set()
        for weight in layer.parameters():
            if weight.requires_grad or weight.untyped_storage().data_ptr() in seen:
                continue
            host = torch.empty_like(weight, device="cpu", pin_memory=side is not None, requires_grad=False)
            host.copy_(weight.detach())
            if weight.device != device or not _fills_storage(weight):
                weight.data = torch.empty_like(weight, device=device)
            storage = weight.untyped_storage()
            seen.add(storage.data_ptr())
            storage.resize_(0)
            self._weights.append((storage, host.untyped_storage()))
            self.num_bytes += host.untyped_storage().nbytes()

    def prefetch(self) -> None:
        """Begins to copy the weights to the device."""
        if self.is_here:
            return
        self.is_here = True
        if self._side is None:
            self._fill()
            return
        with self._side.after_compute():
            self._fill()
        self._arrival = self._side.mark()

    def fetch(self) -> None:
        """The weights are there for whatever computes next."""
        self.prefetch()
        if self._side is not None and self._arrival is not None:
            self._side.let_compute_wait(self._arrival)
            self._arrival = None

    def release(self) -> None:
        """Frees the memory on the device."""
        self.fetch()  # a copy under way would write into memory that is another's by then
        for storage, _ in self._weights:
            storage.resize_(0)
        self.is_here = False
        self.in_backward = False

    def _fill(self) -> None:
        for storage, host in self._weights:
            storage.resize_(host.nbytes())
            storage.copy_(host, non_blocking=self._side is not None)


def _fills_storage(weight: torch.Tensor) -> bool:
    return weight.untyped_storage().nbytes() == weight.nbytes and weight.is_contiguous()


def park_layers_(
    model: torch.nn.Module, base: torch.nn.Module, device: torch.device, side: SideStream | None
) -> str:
    """Holds the frozen weights of every layer in RAM, and has each fetched before it computes.

    In the forward pass the next layer is fetched while one computes, in the backward pass the one before.

    Args:
        model: The module that is called.
        base: The model of transformers inside it.
        device: Where layers compute.
        side: The stream that copies; None copies on the stream that computes.

    Returns:
        What waits in RAM, for people.

    Raises:
        ModelError: There is no layer, or none with a frozen weight.
    """
    layers = find_layers(base)
    parks = [LayerPark(layer, device, side) for layer in layers]
    num_bytes = sum(park.num_bytes for park in parks)
    if not num_bytes:
        raise ModelError(
            f"`layer_offloading`: {type(base).__name__} has no layers with frozen weights",
            "Train an adapter, or remove `layer_offloading`.",
        )

    def begin(module: torch.nn.Module, inputs: Any) -> None:
        for park in parks:
            if park.is_here:
                park.release()

    model.register_forward_pre_hook(begin, prepend=True)
    for index, layer in enumerate(layers):
        _install_park_(layer, parks, index)
    return f"{num_bytes / 2**30:.2f} GiB of frozen weights wait in RAM, and come layer by layer"


def _install_park_(layer: torch.nn.Module, parks: list[LayerPark], index: int) -> None:
    park = parks[index]
    before = parks[index - 1] if index else None
    after = parks[index + 1] if index + 1 < len(parks) else None

    def begin_backward(gradient: torch.Tensor) -> None:
        # The gradient of this layer's output is there: all layers after it are done.
        for later in parks[index + 1 :]:
            if later.is_here:
                later.release()
        park.in_backward = True
        park.fetch()
        if before is not None:
            before.prefetch()

    def enter(module: torch.nn.Module, inputs: Any) -> None:
        park.fetch()
        if after is not None and not park.in_backward:
            after.prefetch()

    def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if park.in_backward:  # recomputed: its backward pass follows
            return
        hidden = output[0] if isinstance(output, tuple) else output
        if torch.is_grad_enabled() and hidden.requires_grad:
            hidden.register_hook(begin_backward)
        park.release()

    layer.register_forward_pre_hook(enter, prepend=True)
    layer.register_forward_hook(leave)
