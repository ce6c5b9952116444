"""Files in a cloud's buckets, through fsspec and the package of each cloud."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from siredon.data.file_rows import TextFile
from siredon.data.files import is_hidden
from siredon.data.scratch import Scratch, report_full_disk
from siredon.data.store import Store, copy_hashed
from siredon.errors import DataError
from siredon.redaction import redact, strip_addresses

#: Scheme -> the package that reads it, and the extra that brings it.
CLOUDS = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "az": ("adlfs", "az"),
    "abfs": ("adlfs", "az"),
    "abfss": ("adlfs", "az"),
    "adl": ("adlfs", "az"),
    "oci": ("ocifs", "oci"),
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket; "
    "AWS_ENDPOINT_URL for another server",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, _SAS_TOKEN or _CONNECTION_STRING",
    "oci": "~/.oci/config, or OCIFS_CONFIG_LOCATION, OCIFS_CONFIG_PROFILE and OCIFS_IAM_TYPE",
}
#: What a cloud says of a file that changes with its content, by the names that the packages use.
_MARKS = ("ETag", "etag", "md5Hash", "md5", "content_md5", "crc32c", "generation")
_DATES = ("LastModified", "last_modified", "updated", "mtime", "timeModified", "modificationTime")
_BLOCK_BYTES = 1 << 23
_Answer = TypeVar("_Answer")


class CloudStore(Store):
    """An object, or all objects under a prefix.

    Raises:
        DataError: The package is missing, nothing is there, or access is refused.
    """

    def __init__(self, url: str) -> None:
        self.label = strip_addresses(url)
        scheme = url.partition("://")[0].lower()
        package, self._extra = CLOUDS[scheme]
        if importlib.util.find_spec(package) is None:
            raise DataError(
                f"{self.label}: {scheme}:// needs the package {package}",
                f"Run: pip install 'siredon[{self._extra}]'",
            )
        self.digests = {}
        self._infos: dict[str, dict[str, Any]] = {}
        self._ask(lambda: self._look(url))

    def fetch(self, name: str) -> TextFile:
        """The object, downloaded.

        Raises:
            DataError: It cannot be read, or does not fit on the disk.
        """
        scratch = Scratch()
        target = scratch.new_file(name)
        self._download(name, target, scratch)
        return TextFile(target, self.file_label(name), scratch)

    def fetch_all(self) -> tuple[Path, Scratch | None]:
        """All objects under the prefix, downloaded into one folder."""
        scratch = Scratch()
        root = scratch.new_file("all")
        for name in self.names:
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._download(name, target, scratch)
        return root, scratch

    def _download(self, name: str, target: Path, scratch: Scratch) -> None:
        info = self._infos[name]
        scratch.check_room(int(info.get("size") or 0), self.file_label(name))

        def download() -> None:
            with (
                report_full_disk(self.label),
                self._fs.open(info["name"], "rb", block_size=_BLOCK_BYTES) as source,
            ):
                _, self.digests[name] = copy_hashed(source, target)

        self._ask(download)

    def fingerprint(self, names: Sequence[str]) -> str | None:
        """Of the mark of each object (`ETag`, a checksum), or of its date and size."""
        facts = []
        for name in names:
            info = self._infos[name]
            marks = [str(info[key]) for key in _MARKS if info.get(key)]
            marks = marks or [str(info[key]) for key in _DATES if info.get(key)]
            if not marks:
                return None
            facts.append([name, info.get("size"), marks])
        return hashlib.sha256(repr([self.label, facts]).encode()).hexdigest()

    def _look(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._fs, path = url_to_fs(url.rstrip("/"))
        self._fs.invalidate_cache()  # What this process listed before may have changed
        found = self._fs.find(path, detail=True)
        self.is_folder = list(found) != [path]
        for full, info in found.items():
            name = full.removeprefix(path).lstrip("/") or PurePosixPath(path).name
            if not any(is_hidden(part) or part == ".." for part in name.split("/")):
                self._infos[name] = {**info, "name": full}
        self.names = sorted(self._infos)
        if not self.names:
            raise FileNotFoundError

    def _ask(self, action: Callable[[], _Answer]) -> _Answer:
        try:
            return action()
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError(f"{self.label}: there is nothing there", "Check bucket and path.") from None
        except Exception as error:  # noqa: BLE001  each package has its own
            reason = redact((str(error).splitlines() or [""])[0])[:300] or type(error).__name__
            raise DataError(
                f"{self.label}: cannot be read ({reason})",
                f"Check the address, and who you are: {_CREDENTIALS[self._extra]}.",
            ) from None
