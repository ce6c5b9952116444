"""An artifact sent to the hub: what is sent, where to, and who will see it is said before."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path

from siredon.config.schema import Config
from siredon.config.sections.hub import HubSection
from siredon.errors import CheckpointError, HubError
from siredon.evaluate.figures import show_size
from siredon.export.card import read_card
from siredon.export.contents import CARD, Contents, Item, check_secrets, list_contents
from siredon.export.hub import Repository, Target, find_repository
from siredon.export.push_wanted import Push
from siredon.log import show, warn

_PARTS = ("merged", "quantized")
#: Files that decide what a repository is loaded as.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json")


def push_artifact(config: Config, wanted: Push) -> None:
    """Says what will be sent, and sends it.

    Raises:
        CheckpointError: There is no such artifact.
        HubError: It holds a secret, there is no repository for it, or the hub refuses.
    """
    place = choose_artifact(config, wanted.what)
    contents = collect(place)
    check_secrets(contents.items)
    target = choose_target(config.hub, wanted)
    for text in contents.warnings:
        warn(text)
    show_contents(place, contents)
    if wanted.dry_run:
        show(
            f"to {target.repo}: {'public' if target.is_public else 'private'} if it is made; a dry run, nothing is sent"
        )
        return
    repository = find_repository(target)
    contents = collect(place, repository.name)
    if place.is_file() and CARD in repository.files:  # That of the model beside which the file is put
        contents = replace(contents, items=tuple(item for item in contents.items if item.name != CARD))
    show(f"to {repository.description}")
    _warn_of_others(repository, contents)
    repository.prepare()
    show(f"sent: {repository.send(contents.items, f'Upload {place.resolve().name} with Siredon')}")


def choose_artifact(config: Config, what: str | None) -> Path:
    """The folder or file that is meant.

    Raises:
        CheckpointError: It is not there, or something else.
    """
    output = config.checkpoint.output_folder
    if what in _PARTS:
        place = output / str(what)
        if not place.is_dir():
            verb = {"merged": "merge-lora", "quantized": "quantize"}[str(what)]
            raise CheckpointError(f"{place} is not there", f"Make it first: siredon {verb} {output}")
        return place
    if what not in (None, "adapter"):
        named = [path for path in (Path(str(what)).expanduser(), output / str(what)) if path.exists()]
        if not named:
            raise CheckpointError(
                f"--what {what}: there is no such file or folder here or in {output}",
                "Write `adapter`, `merged`, `quantized`, or the path of a file or folder.",
            )
        return named[0]
    if what == "adapter" and not (output / "adapter_config.json").is_file():
        raise CheckpointError(f"--what adapter: {output} holds none", "Leave `--what` out.")
    if not output.exists():
        raise CheckpointError(
            f"{output} is not there", "Train first, or name the folder of a run or of a model."
        )
    return output


def choose_target(section: HubSection, wanted: Push) -> Target:
    """The repository that the command line names, or else the file.

    Raises:
        HubError: Neither does.
    """
    repo = wanted.repo or section.hub_model_id
    if not repo:
        raise HubError("no repository is named", "Write `--repo owner/name`, or `hub_model_id` in the file.")
    is_public = wanted.public or not section.hub_private_repo
    return Target(repo, wanted.revision or section.hub_revision, is_public)


def collect(place: Path, repo: str = "") -> Contents:
    """The artifact with its card for a repository; the folder is left as it is.

    Raises:
        CheckpointError: There are no weights.
    """
    found = Contents((Item(place.name, place),)) if place.is_file() else list_contents(place)
    if place.is_file() and place.suffix not in (".gguf", ".onnx", ".safetensors"):
        return found
    return replace(found, items=(Item(CARD, read_card(place, repo).encode()), *found.items))


def show_contents(place: Path, contents: Contents) -> None:
    """Every file and its size; what is left here."""
    show(f"from {place}:")
    for item in contents.items:
        show(f"  {show_size(item.num_bytes):>10}  {item.name}")
    show(f"  {show_size(sum(item.num_bytes for item in contents.items)):>10}  in {len(contents.items)} files")
    if contents.left:
        show(f"  left here: {', '.join(contents.left)}")


def _warn_of_others(repository: Repository, contents: Contents) -> None:
    """Weights of another artifact in the same repository: who loads it may get those."""
    names = {item.name for item in contents.items}
    others = [
        name
        for name in repository.files
        if name not in names and any(fnmatch.fnmatchcase(name, one) for one in _WEIGHTS) and "/" not in name
    ]
    if others and not names.isdisjoint({"config.json", "adapter_config.json"}):
        warn(
            f"{repository.name} holds other weights too, which stay: {', '.join(others)} (to delete them: hf repos "
            f"delete-files {repository.name} {others[0]})"
        )
