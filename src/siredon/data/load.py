"""Sources -> rows: `datasets:` entries that name local files and folders, addresses, and data sets of the hub.

    entry -> Store (where its files are) -> splits -> files -> Rows -> the ones that are chosen
          -> the hub, through `datasets`  ----------------------^

`Rows` stay in their files and are read in blocks; `docs/sources.md` tells users what there is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import NoReturn

from siredon.config.sections.data import DatasetEntry
from siredon.data.cloud import CLOUDS, CloudStore
from siredon.data.files import KINDS, KNOWN_ENDINGS, open_file, unpack
from siredon.data.folder import Splits, find_configured_splits, find_splits, read_configurations
from siredon.data.hub import fingerprint_datasets, load_hub, open_saved
from siredon.data.row_choice import choose_rows, choose_split, draws_order, part_bounds
from siredon.data.rows import Rows, join_rows
from siredon.data.store import LocalStore, Store, has_scheme, suggest_file
from siredon.data.transform import fingerprint_function, transform_rows
from siredon.data.types import Row
from siredon.data.unpack import unpack_archive
from siredon.data.web import WebStore
from siredon.errors import DataError
from siredon.redaction import strip_addresses

#: Rows of this type are made up, and read from nowhere.
SYNTHETIC = "_synthetic"
_SAVED = ("dataset_dict.json", "state.json")
_README = "README.md"


@dataclass(frozen=True)
class Source:
    """Rows of one data set.

    Args:
        name: How messages call it: the path, as the user wrote it, without what is secret in an address.
        rows: The rows.
        fingerprint: A hash of what they are; empty for local files, which `fingerprint_entry` reads.
    """

    name: str
    rows: Sequence[Row]
    fingerprint: str = ""

    def place(self, index: int) -> str:
        """Where a row stands, for messages: `rows.jsonl: row 7`."""
        return self.rows.place(index) if isinstance(self.rows, Rows) else f"{self.name}: row {index + 1}"


def load_rows(entry: DatasetEntry, seed: int = 42) -> Source:
    """The rows of one entry of `datasets:`; most are only parsed when they are read.

    Args:
        entry: The entry.
        seed: Of `shuffle` and `shards`.

    Raises:
        DataError: No such file or data set, no such split, nothing in it, or a file that is not what it should be.
    """
    label = strip_addresses(entry.path)
    if entry.type == SYNTHETIC:
        return Source(label, [{"number": number} for number in range(entry.length)], SYNTHETIC)
    with _report_unreadable(label):
        stores = _open_stores(entry)
        if stores is None:
            parts = [load_hub(entry, name) for name in entry.name or (None,)]
            rows, content = join_rows(parts), fingerprint_datasets(parts)
        else:
            rows = join_rows(_load_stored(stores, entry, name) for name in entry.name or (None,))
            content = "".join(digest for store in stores for _, digest in sorted(store.digests.items()))
        if len(rows) == 0:
            raise DataError(f"{label}: the data set has no rows", "Check `path` and `split`.")
        rows = _choose(rows, entry, seed)
    return Source(label, rows, _with_choices(content, entry, seed) if content else "")


def _choose(rows: Rows, entry: DatasetEntry, seed: int) -> Rows:
    transform = entry.input_transform
    rows = choose_rows(rows, entry, seed, entry.max_samples if transform is None else None)
    if transform is None:
        return rows
    rows = transform_rows(rows, transform, entry.max_samples)
    if len(rows) == 0:
        raise DataError(
            f"{strip_addresses(entry.path)}: `input_transform: {transform}` left no row",
            "Correct the function.",
        )
    return rows


def split_pieces(source: Source, entry: DatasetEntry) -> Iterator[tuple[int, Source]]:
    """The pieces of `preprocess_shards`, in order, each with the number of its first row; one without the key."""
    for start, stop in part_bounds(len(source.rows), entry.preprocess_shards or 1):
        if start < stop:
            yield start, replace(source, rows=source.rows[start:stop])


def fingerprint_entry(entry: DatasetEntry, seed: int = 42) -> str | None:
    """A hash of everything outside of the entry's keys that decides what its rows are.

    Of local files the bytes, of remote ones what their server tells, and for `input_transform` the file of the
    function; with `shuffle` or `shards` the seed.  None where only the loaded rows tell: see `fingerprint_hub`.

    Raises:
        DataError: No such file, or a server that cannot be reached.
    """
    if entry.type == SYNTHETIC:
        return SYNTHETIC
    with _report_unreadable(strip_addresses(entry.path)):
        stores = _open_stores(entry)
        if stores is None:
            return None
        patterns = () if _names_kind(entry) else entry.data_files
        contents = [store.fingerprint(store.choose_names(patterns)) for store in stores]
    known = [content for content in contents if content is not None]
    return _with_choices("".join(known), entry, seed) if len(known) == len(contents) else None


def fingerprint_hub(source: Source) -> str:
    """The same for rows whose content is known only after loading: of the hub its commit and files, else bytes."""
    return source.fingerprint


@contextmanager
def _report_unreadable(label: str) -> Iterator[None]:
    """Turns what the system says of a file into an error that names it."""
    try:
        yield
    except OSError as error:
        where = error.filename if error.filename else label
        raise DataError(
            f"{where}: cannot be read ({error.strerror or type(error).__name__})",
            "Check that the file is there and may be read.",
        ) from error


def _with_choices(content: str, entry: DatasetEntry, seed: int) -> str:
    facts = [content, seed if draws_order(entry) else None]
    if entry.input_transform is not None:
        facts.append(fingerprint_function(entry.input_transform))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


# Where the files are


def _names_kind(entry: DatasetEntry) -> bool:
    """Whether `path` is a kind of file, as in `path: json` with `data_files`."""
    return entry.path in KINDS and bool(entry.data_files) and not Path(entry.path).exists()


def _open_stores(entry: DatasetEntry) -> list[Store] | None:
    """Where the files of an entry are; None for a data set of the hub."""
    if _names_kind(entry):
        files = [file for pattern in entry.data_files for file in sorted(glob(pattern)) or [pattern]]
        return [_open_store(file) or _miss(file) for file in files]
    store = _open_store(entry.path)
    if store is None and entry.is_local:
        _miss(entry.path)
    return None if store is None else [store]


def _open_store(path: str) -> Store | None:
    """The store of an address, or of a file or folder that is there."""
    if not has_scheme(path):
        local = Path(os.path.expanduser(path))
        return LocalStore(local, path) if local.exists() else None
    scheme = path.partition("://")[0].lower()
    if scheme in ("https", "http"):
        return WebStore(path)
    if scheme in CLOUDS:
        return CloudStore(path)
    raise DataError(
        f"{strip_addresses(path)}: addresses of {scheme}:// are not read",
        f"There are: https://, {', '.join(f'{name}://' for name in CLOUDS)}, local paths and hub ids.",
    )


def _miss(path: str) -> NoReturn:
    raise DataError(
        f"{path}: there is no such file or folder",
        f"{suggest_file(path)}A relative path counts from {Path.cwd()}.",
    )


# Splits and files


def _load_stored(stores: Sequence[Store], entry: DatasetEntry, name: str | None) -> Rows:
    """The rows of the split that the entry asks for."""
    if _names_kind(entry):
        several = partial(_join_train, stores, entry.path)
        return choose_split({"train": several}, entry.split, strip_addresses(entry.path))
    (store,) = stores
    return choose_split(_find_splits(store, entry, name), entry.split, store.label)


def _join_train(stores: Sequence[Store], kind: str) -> Rows:
    return join_rows(open_file(store.fetch(name), kind) for store in stores for name in store.names)


def _find_splits(store: Store, entry: DatasetEntry, name: str | None) -> Mapping[str, Callable[[], Rows]]:
    """Each split, and what opens it."""
    kind = entry.ds_type
    if not store.is_folder:
        file, packing = unpack(store.fetch(store.names[0]))
        if packing is None:
            return {"train": partial(open_file, file, kind)}
        unpacked = unpack_archive(file, packing)
        store = LocalStore(unpacked.path, store.label, unpacked)
    saved = [one.rpartition("/")[0] for one in store.names if one.endswith(_SAVED) and one.count("/") < 2]
    if saved and not entry.data_files:
        folder, keeper = store.fetch_all()
        return open_saved(folder / min(saved, key=len), store.label, keeper)
    names = store.choose_names(entry.data_files)
    splits = {"train": list(names)} if entry.data_files else _read_readme(store, name)
    splits = splits or find_splits(names, kind, store.label)
    if not any(splits.values()):
        raise DataError(f"{store.label}: the folder holds no data file", KNOWN_ENDINGS)
    return {split: partial(_open_files, store, files, kind) for split, files in splits.items()}


def _read_readme(store: Store, name: str | None) -> Splits | None:
    """Splits as the README of a data set lists them, in the configuration `name`."""
    known = {}
    if _README in store.names:
        readme = store.fetch(_README)  # A temporary file lives as long as this
        known = read_configurations(readme.path.read_text(errors="replace"))
    if not known and name is None:
        return None
    return find_configured_splits(known, name, store.names, store.label)


def _open_files(store: Store, names: Sequence[str], kind: str | None) -> Rows:
    return join_rows(open_file(store.fetch(name), kind) for name in names)
