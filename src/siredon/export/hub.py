"""A repository of the Hugging Face hub: found or made, and files sent to it in one commit.

`create_commit` of huggingface_hub is used, and not `upload_folder`: that one commits a large folder in several parts,
so that for a while others load half a model.  Both go on where a cut upload stopped, as the hub keeps by its hash what
has arrived: whole files, and with hf_xet pieces of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from siredon.errors import HubError, UnreachableError
from siredon.export.contents import Item
from siredon.log import is_terminal, note
from siredon.redaction import redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGIN = "Set `HF_TOKEN` to a token with the right to write, or run: hf auth login"
#: Status codes of a hub that may take the same thing later.
_PASSING = (408, 409, 412, 425, 429)


@dataclass(frozen=True)
class Target:
    """Where files go.

    Args:
        repo: `owner/name`, or a name in the user's own account.
        revision: The branch.
        is_public: A repository that is made is public, and one that is public may be used.
    """

    repo: str
    revision: str | None = None
    is_public: bool = False


class Repository:
    """A repository, which may not be there yet."""

    def __init__(
        self, api: HfApi, name: str, target: Target, *, private: bool | None, files: Sequence[str]
    ) -> None:
        self.name = name
        #: Files that are in it.
        self.files = tuple(files)
        self._api, self._target, self._private = api, target, private

    @property
    def description(self) -> str:
        """Its name, branch, and who can see it."""
        branch = f", branch {self._target.revision}" if self._target.revision else ""
        if self._private is None:
            return f"{self.name}{branch}: made now, {'public' if self._target.is_public else 'private'}"
        return f"{self.name}{branch}: there already, {'private' if self._private else 'public'}"

    def prepare(self) -> None:
        """Makes the repository and the branch, where they are not there yet.

        Raises:
            HubError: See `send`.
        """
        with _blaming(self.name):
            if self._private is None:
                self._api.create_repo(self.name, private=not self._target.is_public, exist_ok=True)
                self._private = not self._target.is_public
            if self._target.revision not in (None, "main"):
                self._api.create_branch(self.name, branch=str(self._target.revision), exist_ok=True)

    def send(self, items: Sequence[Item], message: str, *, in_turn: bool = False) -> str:
        """Sends files in one commit; what the hub has already is not sent again.

        Args:
            items: The files.
            message: Of the commit.
            in_turn: Large files go one after the other, without threads of huggingface_hub's own, for which the end of
                the process would wait.

        Returns:
            The address of the commit.

        Raises:
            HubError: The hub refuses, or `UnreachableError`: it cannot be reached, or the upload broke off.
        """
        from huggingface_hub import CommitOperationAdd

        branch = self._target.revision
        with _blaming(self.name), _quiet():
            added = [
                CommitOperationAdd(
                    item.name, item.content if isinstance(item.content, bytes) else str(item.content)
                )
                for item in items
            ]
            large = [one for one, item in zip(added, items, strict=True) if item.is_stored_apart]
            for one in large if in_turn else ():
                self._api.preupload_lfs_files(self.name, [one], revision=branch, free_memory=False)
            made = self._api.create_commit(self.name, added, commit_message=message, revision=branch)
        return str(made.commit_url)


def find_repository(target: Target) -> Repository:
    """Looks a repository up, and makes nothing.

    Raises:
        HubError: There is no token or one that is refused, no network, or the repository is seen by everybody though
            nobody asked for that.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise HubError(
            f"nothing can be sent to {target.repo}: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the network",
            "Unset it.",
        )
    if get_token() is None:
        raise HubError(
            f"nothing can be sent to {target.repo}: there is no token of the hub on this machine", _LOGIN
        )
    api = HfApi()
    with _blaming(target.repo):
        user = str(api.whoami()["name"])
        name = target.repo if "/" in target.repo else f"{user}/{target.repo}"
        try:
            info = api.model_info(name, revision=target.revision)
        except RevisionNotFoundError:
            info = api.model_info(name)
        except RepositoryNotFoundError:
            return Repository(api, name, target, private=None, files=())
    if not info.private and not target.is_public:
        raise HubError(
            f"{name} is public: everybody would see what is sent",
            "Say so with `--public` or `hub_private_repo: false`, or name another repository.",
        )
    if info.private and target.is_public:
        note(f"{name} is there and private, and stays so: its own settings on the hub change that")
    files = [found.rfilename for found in info.siblings or ()]
    return Repository(api, name, target, private=bool(info.private), files=files)


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        raise _blame(name, error) from error


def _blame(name: str, error: BaseException) -> HubError:
    """What to tell of whatever huggingface_hub, hf_xet or the network raised."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    chain = list(_walk(error))
    refused = next((found for found in chain if isinstance(found, HfHubHTTPError)), None)
    if refused is None:
        reason = _tell(chain[-1])
        if isinstance(error, (HFValidationError, FileNotFoundError)) or "metadata in README" in str(error):
            return HubError(f"{name}: {_tell(error)}", "Correct that, and send again.")
        return UnreachableError(
            f"{name}: the hub cannot be reached, or the upload broke off: {reason}",
            "Look at the network, and send again: what has arrived is not sent twice.",
        )
    status = refused.response.status_code
    reason = redact(refused.server_message or _tell(refused))
    if status == 401:
        return HubError(f"{name}: the hub refuses the token (401): {reason}", _LOGIN)
    if status in (403, 404):
        return HubError(
            f"{name}: this token may not write there, or there is no such owner ({status}): {reason}",
            f"Name a repository of your own or of an organization that lets you write. {_LOGIN}",
        )
    if status in _PASSING or status >= 500:
        return UnreachableError(
            f"{name}: the hub does not take it now ({status}): {reason}", "Send again later."
        )
    return HubError(f"{name}: the hub refuses it ({status}): {reason}", "Correct that, and send again.")


def _walk(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tell(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return redact(lines[0])[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress bars where nobody sees them, or where a bar of ours runs, off the screen."""
    import sys
    import threading

    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    is_seen = is_terminal(sys.stderr) and threading.current_thread() is threading.main_thread()
    if is_seen or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
