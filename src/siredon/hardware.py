"""The machine, probed once and passed in.  The only file that may say "cuda"."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda", "mps"]

#: The type of device that kernels in Triton are registered for: AMD's GPUs have it, too.
GPU = "cuda"

#: A mode of torch.compile that records graphs -> its twin that does not.
COMPILE_MODES = {"max-autotune": "max-autotune-no-cudagraphs"}


@dataclass(frozen=True)
class Hardware:
    """What a run has to work with.

    Args:
        device: Where tensors live.
        name: The device as its maker calls it.
        num_devices: GPUs in this machine; 1 for cpu and mps.
        has_bf16: bfloat16 products in hardware.
        has_tf32: TensorFloat-32 products.
        num_cores: CPU cores that this process may use.
    """

    device: Device
    name: str
    num_devices: int
    has_bf16: bool
    has_tf32: bool
    num_cores: int

    def describe(self) -> str:
        """For people."""
        return f"{self.name} ({self.device})"

    @property
    def is_gpu(self) -> bool:
        """Whether the device is an NVIDIA or AMD GPU."""
        return self.device == "cuda"


@cache
def has_triton() -> bool:
    """Whether Triton is installed, in which kernels for a GPU are written."""
    return find_spec("triton") is not None


@cache
def count_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU: as many programs of a kernel run at once, or a few times as many; 4 for a CPU."""
    import torch

    if device.type != GPU:
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def set_thread_policy() -> None:
    """Lets waiting CPU threads sleep early; to be called before torch is imported.

    GNU OpenMP spins while it waits.  When another program takes a core, the threads of one operation then
    spend their time slices waiting for each other, and a run becomes many times slower.  Measured on 2 cores,
    LoRA on a 135 M model, tokens/s alone and beside one busy program: spin count 50,000: 450 and 65; 10,000:
    423 and 148; passive: 297 and 254; the default alone: 440.  What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


#: What makes libraries deterministic that PyTorch's own flag does not reach; what the user has set stays.
_DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}


@contextmanager
def deterministic_libraries() -> Iterator[None]:
    """cuBLAS, cuDNN and flash attention without kernels whose bits change from run to run.  Imports torch.

    cuBLAS reads its variable when a process makes its first product on the GPU: to be entered before that.
    """
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    added = {name: value for name, value in _DETERMINISTIC.items() if name not in os.environ}
    os.environ.update(added)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        for name in added:
            os.environ.pop(name, None)


def describe_libraries() -> dict[str, str]:
    """Versions of the libraries of a GPU that PyTorch was built with; empty without a GPU.  Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return {}
    if torch.version.hip:
        return {"rocm": torch.version.hip}
    version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"cuda": str(torch.version.cuda), "cudnn": str(version)}


def probe_hardware() -> Hardware:
    """Looks at this machine.  Imports torch."""
    import torch

    cpu = probe_cpu()
    if torch.cuda.is_available():
        major, _ = torch.cuda.get_device_capability()
        return Hardware(
            "cuda",
            torch.cuda.get_device_name(),
            torch.cuda.device_count(),
            torch.cuda.is_bf16_supported(including_emulation=False),
            major >= 8 and torch.version.hip is None,
            cpu.num_cores,
        )
    if torch.backends.mps.is_available():
        return Hardware("mps", platform.processor() or "Apple GPU", 1, True, False, cpu.num_cores)
    return cpu


def probe_cpu() -> Hardware:
    """The CPU of this machine, whatever else there is."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return Hardware("cpu", _cpu_name(), 1, _cpu_has_bf16(), False, cores)


def name_local_device(hardware: Hardware) -> str:
    """The device of this process, as PyTorch names it: with several processes, the GPU of its own number."""
    return f"{hardware.device}:{os.environ.get('LOCAL_RANK', '0')}" if hardware.is_gpu else hardware.device


def describe_devices() -> dict[str, str]:
    """What there is to compute with, for people: name of a thing -> what it is.  Imports torch."""
    import torch

    hardware = probe_hardware()
    found = {"cpu": f"{_cpu_name()}, {hardware.num_cores} cores, {_memory_bytes() / 2**30:.0f} GiB"}
    if hardware.is_gpu:
        for index in range(hardware.num_devices):
            gpu = torch.cuda.get_device_properties(index)
            found[f"gpu {index}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {gpu.major}.{gpu.minor}"
        found["runtime"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    elif hardware.device == "mps":
        found["gpu"] = "Apple GPU (MPS)"
    else:
        found["gpu"] = "none that PyTorch can use"
    found["number formats"] = "bfloat16 in hardware" if hardware.has_bf16 else "no bfloat16 in hardware"
    return found


def _memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_available_bytes() -> int:
    """Memory that a process could still take without swapping: what Linux says, elsewhere half of all."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return _memory_bytes() // 2


class SideStream:
    """A second queue of work on the GPU, for copies beside what computes.  Imports torch."""

    def __init__(self) -> None:
        import torch

        self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @contextmanager
    def after_compute(self) -> Iterator[None]:
        """What is asked for inside runs on this stream, after all that the computing stream has been given so far.

        So memory that was freed by then is free for it too.
        """
        import torch

        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> torch.cuda.Event:
        """The moment at which all that this stream has been given is done."""
        moment: torch.cuda.Event = self._stream.record_event()
        return moment

    def let_compute_wait(self, moment: torch.cuda.Event) -> None:
        """What the computing stream is given from now on runs after that moment."""
        import torch

        torch.cuda.current_stream().wait_event(moment)


def open_side_stream(hardware: Hardware) -> SideStream | None:
    """A stream for copies, where there is a GPU."""
    return SideStream() if hardware.is_gpu else None


@contextmanager
def beside_compute(device: torch.device) -> Iterator[None]:
    """What this thread asks of a GPU inside waits for nothing that the others have asked for.

    It is for memory that nobody writes to any more: the computing stream may stand still, in a sum over ranks of which
    one does not come.
    """
    import torch

    if device.type != GPU:
        yield
        return
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield


def wait_for_compute(device: torch.device) -> None:
    """Waits until a GPU has done what it was asked for, while other threads go on; nothing without one."""
    import torch

    if device.type == GPU:
        torch.cuda.current_stream(device).synchronize()


def read_capability() -> tuple[int, int]:
    """Generation of the NVIDIA GPU, such as (9, 0); (0, 0) without one.  Imports torch."""
    import torch

    if not torch.cuda.is_available() or torch.version.hip is not None:
        return (0, 0)
    return torch.cuda.get_device_capability()


def read_peak_bytes(hardware: Hardware) -> int:
    """The most memory this process has held: on the GPU if there is one, else resident."""
    if hardware.is_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak(hardware: Hardware) -> None:
    """Lets `read_peak_bytes` count from now on; resident memory on Linux only, elsewhere it counts on."""
    if hardware.is_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # A container may forbid it: the peak is then that of the whole run
            return


def count_retries(hardware: Hardware) -> int:
    """How often memory was found only after the allocator had given back all that it had cached; 0 without a GPU."""
    if not hardware.is_gpu:
        return 0
    import torch

    return int(torch.cuda.memory_stats().get("num_alloc_retries", 0))


def begin_recorded_pass() -> None:
    """Tells recorded graphs that a forward pass begins, and what the last one gave is not needed.  Imports torch."""
    import torch

    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def release_memory(hardware: Hardware) -> None:
    """Gives back what is held for later: what nothing refers to any more, and the allocator's cache.  Imports torch."""
    import torch

    # A backward pass that failed leaves what was next in PyTorch's queue, and with it activations, until another runs
    torch.autograd.backward(torch.ones((), requires_grad=True))
    gc.collect()
    if hardware.is_gpu:
        torch.cuda.empty_cache()
    elif platform.libc_ver()[0] == "glibc":
        # Freed memory stays with the process, and would be counted as held
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class Memory:
    """Memory of the device, in bytes.

    Args:
        total: All that there is.
        limit: The most that this process can hold.
        own: What it holds.
        others: What is neither this process's nor free: other processes, and on a GPU what its driver takes.
    """

    total: int
    limit: int
    own: int
    others: int


def read_memory(hardware: Hardware) -> Memory:
    """What the device has: a GPU, less what other processes hold of it; or RAM, within the limits of a container."""
    if hardware.is_gpu:
        import torch

        free, total = torch.cuda.mem_get_info()
        reserved = torch.cuda.memory_reserved()
        allowed = int(total * torch.cuda.get_per_process_memory_fraction())
        own = int(torch.cuda.memory_allocated())
        return Memory(total, min(free + reserved, allowed), own, max(0, total - free - reserved))
    own, virtual = _read_own_bytes()
    limit = own + read_available_bytes()
    others = max(0, _memory_bytes() - limit)
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, own + most - virtual)
    for files in _CONTAINERS:
        if (left := files.read_left_bytes()) is not None:
            limit = min(limit, own + left)
    return Memory(_memory_bytes(), limit, own, others)


@dataclass(frozen=True)
class ContainerFiles:
    """Where a control group keeps its memory.

    Args:
        folder: The folder.
        most: File of its limit, in bytes; a word for none.
        used: File of its use, in bytes, with the files that Linux keeps in memory.
        cached: Line of `memory.stat` with those of them that give way.
    """

    folder: Path
    most: str
    used: str
    cached: str

    def read_left_bytes(self) -> int | None:
        """What its processes could still take; None without a limit."""
        most, used, stat = (self.folder / name for name in (self.most, self.used, "memory.stat"))
        if not most.is_file() or not most.read_text().strip().isdecimal():
            return None
        lines = dict(line.split() for line in stat.read_text().splitlines())
        return int(most.read_text()) - int(used.read_text()) + int(lines.get(self.cached, 0))


#: Version 2 and version 1 of control groups.
_CONTAINERS = (
    ContainerFiles(Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    ContainerFiles(
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def _read_own_bytes() -> tuple[int, int]:
    """Resident and virtual memory of this process."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, peak
    virtual, resident = status.read_text().split()[:2]
    page = os.sysconf("SC_PAGE_SIZE")
    return int(resident) * page, int(virtual) * page


def limit_memory(hardware: Hardware, fraction: float) -> None:
    """Lets this process have only a part of the GPU, 1 for all; nothing without one."""
    if hardware.is_gpu:
        import torch

        torch.cuda.set_per_process_memory_fraction(fraction)


#: What PyTorch says where its exception is no `OutOfMemoryError`: the CPU's allocator, cuBLAS, the driver.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "HIP out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, on the GPU or in RAM.  Imports torch."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def record_memory(hardware: Hardware, *, on: bool) -> None:
    """Begins or ends a record of every allocation on the GPU; nothing without one."""
    if hardware.is_gpu:
        import torch

        torch.cuda.memory._record_memory_history(enabled="all" if on else None)


def save_memory_record(hardware: Hardware, path: Path) -> None:
    """Writes the record, for https://pytorch.org/memory_viz; nothing without a GPU."""
    if hardware.is_gpu:
        import torch

        torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    for line in info.read_text(errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def _cpu_has_bf16() -> bool:
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
