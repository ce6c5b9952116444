"""The examples that come with the package: configurations that run, with the files that they need."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from siredon.errors import SiredonError
from siredon.registry import suggest

#: The folder of the examples in a checkout, and below the folder to which one is copied: their paths begin so.
FOLDER = "examples"


@dataclass(frozen=True)
class Example:
    """A configuration.

    Args:
        name: Folder and file without ending: `smollm2/identity-lora-cpu`.
        path: The file.
        about: Its first comment.
    """

    name: str
    path: Path
    about: str


def find_examples() -> tuple[Example, ...]:
    """Every example, by name."""
    root = _root()
    paths = sorted(root.glob("*/*.yml"))
    return tuple(
        Example(path.relative_to(root).with_suffix("").as_posix(), path, _read_about(path)) for path in paths
    )


def find_example(name: str) -> Example:
    """The example of that name.

    Raises:
        SiredonError: There is none; the nearest is named.
    """
    name = name.removeprefix(f"{FOLDER}/").removesuffix(".yml")
    examples = {example.name: example for example in find_examples()}
    if name not in examples:
        known = ", ".join(examples)
        raise SiredonError(f"there is no example `{name}`", f"{suggest(name, examples)}There are: {known}.")
    return examples[name]


def copy_example(example: Example, folder: Path, *, force: bool) -> tuple[Path, ...]:
    """Copies an example, and what lies beside it, to `examples/` in a folder: its paths hold from there.

    Returns:
        The files written.

    Raises:
        SiredonError: A file is there already, and `force` is not given.
    """
    root = _root()
    files = sorted(path for path in example.path.parent.iterdir() if path.is_file())
    pairs = [(path, folder / FOLDER / path.relative_to(root)) for path in files]
    try:
        pairs = [(source, target) for source, target in pairs if not _is_same(source, target)]
        there = [target for _, target in pairs if target.exists()]
        if there and not force:
            raise SiredonError(
                f"{there[0]} is there already, and another", "Use --force to replace it, or --to FOLDER."
            )
        for source, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as error:
        raise SiredonError(
            f"{error.filename or folder}: {error.strerror}",
            "Name a folder that can be written by --to FOLDER.",
        ) from None
    return tuple(target for _, target in pairs)


def _is_same(source: Path, target: Path) -> bool:
    return target.is_file() and target.read_bytes() == source.read_bytes()


def _root() -> Path:
    """The folder inside the installed package, or that of the checkout."""
    package = Path(__file__).parent
    installed = package / "_examples"
    return installed if installed.is_dir() else package.parents[1] / FOLDER


def _read_about(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
