"""Checkpoints in pieces: put together as PyTorch does, refused where a byte is missing, and never run."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from tests.pieces import write_pieces
from torch.distributed.checkpoint.metadata import Metadata

from siredon.errors import CheckpointError
from siredon.export.dcp import Checkpoint
from siredon.export.dcp_index import read_index
from siredon.export.dcp_names import read_names

KINDS = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool)
METADATA = b"torch.distributed.checkpoint.metadata\nMetadata\n"


def make_tensors() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    shapes = {"matrix": (7, 6), "vector": (5,), "number": (), "cube": (3, 4, 5), "empty": (0, 4)}
    tensors = {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}
    return tensors | {f"kind{number}": torch.ones(4, 2).to(kind) for number, kind in enumerate(KINDS)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pieces(tmp_path / "saved", make_tensors())
    return tmp_path / "saved"


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(folder)
    checkpoint.check(checkpoint.tensors)
    return {stored.path[-1]: checkpoint.read(name) for name, stored in checkpoint.tensors.items()}


def hold_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name].float(), tensor.float()), name


@pytest.mark.parametrize("ranks", [(1,), (2,), (3,), (2, 3), (2, 2, 2)])
def test_pieces_of_any_mesh_are_put_together(ranks: tuple[int, ...], tmp_path: Path):
    write_pieces(tmp_path / "saved", make_tensors(), ranks=ranks)
    hold_same(read_all(tmp_path / "saved"), make_tensors())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_torch_writes_is_read_as_torch_reads_it(tmp_path: Path):
    tensors = make_tensors()
    dcp.save({"app": {"model": tensors, "step": 3}}, checkpoint_id=tmp_path / "torch", no_dist=True)
    assert Checkpoint(tmp_path / "torch").num_others == 1
    hold_same(read_all(tmp_path / "torch"), tensors)
    write_pieces(tmp_path / "ours", tensors)
    back = {f"model.{name}": torch.zeros_like(tensor) for name, tensor in tensors.items()}
    planner = dcp.DefaultLoadPlanner(flatten_state_dict=False)
    dcp.load(back, checkpoint_id=tmp_path / "ours", no_dist=True, planner=planner)
    hold_same({name.removeprefix("model."): tensor for name, tensor in back.items()}, tensors)


def change_index(folder: Path, change: Callable[[Metadata], Any]) -> None:
    """Writes the metadata anew, by torch's own classes."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_what_is_missing_is_named(folder: Path):
    file = folder / "__1_0.distcp"
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp is missing: it holds 3 x 6 of model\.matrix"):
        read_all(folder)
    file.write_bytes(whole[:-10])
    with pytest.raises(
        CheckpointError, match=r"__1_0\.distcp ends after [\d,]+ bytes, before a piece of model\.kind"
    ):
        read_all(folder)
    place = whole.index(make_tensors()["matrix"][4:].numpy().tobytes())
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(
        CheckpointError, match=r"__1_0\.distcp: the bytes of model\.matrix from 0 on are not those"
    ):
        read_all(folder)
    file.write_bytes(b"\0" * len(whole))
    with pytest.raises(CheckpointError, match=r"what should be a piece of model\.matrix, at byte 0, is none"):
        read_all(folder)
    file.write_bytes(whole)
    read_all(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"\.metadata is missing\n  fix: It is written last"):
        read_all(folder)


def shift(metadata: Metadata) -> None:
    chunk = metadata.state_dict_metadata["model.matrix"].chunks[1]
    places = metadata.storage_data
    (index,) = [key for key in places if key.fqn == "model.matrix" and key.offset == chunk.offsets]
    object.__setattr__(index, "offset", torch.Size((3, 0)))
    metadata.storage_data = dict(places)
    chunk.offsets = torch.Size((3, 0))


@pytest.mark.parametrize(
    "change",
    [
        shift,
        lambda metadata: metadata.state_dict_metadata["model.matrix"].chunks.pop(),
        lambda metadata: metadata.state_dict_metadata["model.matrix"].chunks.extend(
            metadata.state_dict_metadata["model.matrix"].chunks[:1]
        ),
        lambda metadata: setattr(metadata.state_dict_metadata["model.matrix"], "size", torch.Size((8, 6))),
        lambda metadata: setattr(metadata.state_dict_metadata["model.matrix"], "size", torch.Size((6, 7))),
        lambda metadata: setattr(metadata.state_dict_metadata["model.matrix"], "size", torch.Size((42,))),
    ],
)
def test_pieces_that_overlap_or_leave_a_gap_are_refused(change: Callable[[Metadata], Any], folder: Path):
    change_index(folder, change)
    with pytest.raises(CheckpointError, match=r"the pieces of model\.matrix do not make a tensor of"):
        read_all(folder)


def set_place(**facts: Any) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        place = next(place for key, place in metadata.storage_data.items() if key.fqn == "model.matrix")
        vars(place).update(facts)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            set_place(relative_path="../secret"),
            r"model\.matrix lies outside of the checkpoint, in \.\./secret",
        ),
        (set_place(relative_path="/etc/passwd"), r"lies outside of the checkpoint, in /etc/passwd"),
        (set_place(transform_descriptors=["stream.zstd"]), r"was changed as it was written, by \['stream"),
        (set_place(offset=-1), "a size is no number"),
        (set_place(length="9"), "a size is no number"),
        (lambda metadata: metadata.storage_data.clear(), "does not say where the piece of model.matrix at"),
        (lambda metadata: setattr(metadata, "storage_data", None), "is damaged"),
    ],
)
def test_metadata_that_says_nonsense_is_refused(change: Any, reason: str, folder: Path):
    change_index(folder, change)
    with pytest.raises(CheckpointError, match=reason):
        read_all(folder)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "place",
    [
        lambda metadata, bomb: setattr(metadata, "planner_data", bomb),
        lambda metadata, bomb: setattr(metadata, "storage_meta", bomb),
        lambda metadata, bomb: metadata.state_dict_metadata.update(x=bomb),
    ],
)
def test_metadata_can_run_no_code(place: Callable[[Metadata, Bomb], Any], folder: Path, tmp_path: Path):
    mark = tmp_path / "was run"
    change_index(folder, lambda metadata: place(metadata, Bomb(mark)))
    refused = r"more than a list of tensors, and is not read: it names posix\.mkdir"
    with pytest.raises(CheckpointError, match=refused):
        read_index(folder)
    assert not mark.exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert mark.exists()  # As torch reads it


def test_a_pickle_cannot_change_the_classes_that_it_names(folder: Path):
    # GLOBAL, then BUILD with a state of slots: sets an attribute of the class
    (folder / ".metadata").write_bytes(b"\x80\x02c" + METADATA + b"(N}X\x06\x00\x00\x00brokenK\x01stb.")
    pickle.loads((folder / ".metadata").read_bytes())
    assert Metadata.broken == 1
    del Metadata.broken
    with pytest.raises(CheckpointError, match="is damaged"):
        read_index(folder)
    assert "broken" not in vars(Metadata)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing of the kind",
        pickle.dumps({"model": 1}),
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",  # Bytes without end
        b"\x80\x04" + b"(" * 100_000,
    ],
)
def test_a_file_of_another_kind_is_refused(data: bytes, folder: Path):
    (folder / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_index(folder)


def test_a_place_in_the_memo_that_would_make_a_large_table_is_refused(folder: Path):
    (folder / ".metadata").write_bytes(b"\x80\x02}r\xff\xff\xff\x00.")
    with pytest.raises(CheckpointError, match="is damaged: a number of its memo is out of order"):
        read_index(folder)
    (folder / ".metadata").write_bytes(pickle.dumps(pickle.loads(make_metadata(folder)), protocol=2))
    assert len(read_index(folder).tensors) == len(make_tensors())


def make_metadata(folder: Path) -> bytes:
    write_pieces(folder / "again", make_tensors())
    return (folder / "again/.metadata").read_bytes()


def test_a_changed_byte_is_refused_or_makes_another_list(folder: Path):
    whole, chance = (folder / ".metadata").read_bytes(), random.Random(0)
    num_refused = 0
    for _ in range(300):
        place = chance.randrange(len(whole))
        (folder / ".metadata").write_bytes(whole[:place] + chance.randbytes(1) + whole[place + 1 :])
        try:
            read_index(folder)
        except CheckpointError:
            num_refused += 1
    assert num_refused > 100


# Names


def make_names(folder: Path, *names: str, path: tuple[str, ...] = ("model",)) -> dict[str, Any]:
    write_pieces(folder, {name: torch.ones(2) for name in names}, path=path)
    return dict(Checkpoint(folder).tensors)


def test_what_wraps_a_layer_is_taken_off(tmp_path: Path):
    tensors = make_names(
        tmp_path / "a",
        "module._orig_mod.h.0._fsdp_wrapped_module.w",
        "_orig_mod.h.1._checkpoint_wrapped_module._fsdp_wrapped_module.w",
        "h.2.module.w",
    )
    found = read_names(tensors, {"h.0.w", "h.1.w", "h.2.module.w"}, "it")
    assert found.place == {
        "h.0.w": "model.module._orig_mod.h.0._fsdp_wrapped_module.w",
        "h.1.w": "model._orig_mod.h.1._checkpoint_wrapped_module._fsdp_wrapped_module.w",
        "h.2.module.w": "model.h.2.module.w",
    }
    assert found.cleaned == {
        "_orig_mod.": 2,
        "_fsdp_wrapped_module.": 2,
        "_checkpoint_wrapped_module.": 1,
        "module.": 1,
    }


def test_the_weights_are_found_among_other_things(tmp_path: Path):
    optimizer = make_names(tmp_path / "a", "w.exp_avg", "v.exp_avg", path=("optimizer", "state"))
    model = make_names(tmp_path / "b", "w", "v", path=("app", "model"))
    found = read_names(optimizer | model, {"w", "v"}, "it")
    assert found.place == {"w": "app.model.w", "v": "app.model.v"}
    assert found.others == 2
    average = make_names(tmp_path / "c", "w", "v", path=("ema",))
    assert read_names(average | model, {"w", "v"}, "it").place["w"] == "app.model.w"
    other = make_names(tmp_path / "d", "w", "v", path=("student",))
    with pytest.raises(CheckpointError, match="`ema` and `student` both hold the weights of such a model"):
        read_names(average | other, {"w", "v"}, "it")
    with pytest.raises(
        CheckpointError, match=r"it: no name is that of a weight; there are optimizer\.state\.v"
    ):
        read_names(optimizer, {"w", "v"}, "it")


def test_two_names_that_become_one_are_refused(tmp_path: Path):
    tensors = make_names(tmp_path / "a", "w", "_orig_mod.w")
    with pytest.raises(CheckpointError, match=r"`model\.w` and `model\._orig_mod\.w` are both w"):
        read_names(tensors, {"w"}, "it")
