"""Folders of a bucket and directories that every reader and writer interprets in the same way.

`settings` refuses the others at the start. A name that is refused here is one that some library
writes to another place than a second one reads from, as tried with pyarrow, polars, deltalake,
boto3 and the stores of the tests.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Final
from urllib.parse import quote

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# S3 allows 1,024 bytes per key. This leaves room for asset, partition and object.
_FOLDER_BYTES: Final = 700
# Control characters, line and paragraph separators, and bytes that are not UTF-8.
_UNREADABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
# deltalake decodes these twice in some of its paths.
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
# deltalake turns the name of a directory into an address, and panics at these.
_NOT_IN_DIRECTORY: Final = re.compile(r"[\[\]|^\\]")


def require_folder(folder: str) -> str:
    """A folder within a bucket, without slashes at its ends; empty is the bucket's top.

    Raises:
        ValueError: objects under it could not be read by every library; says why.
    """
    _require_readable(folder)
    if folder.startswith("/") or folder.endswith("/"):
        raise ValueError("must have no slash at either end")
    parts = folder.split("/") if folder else []
    for part in parts:
        if part in {"", ".", ".."}:
            raise ValueError(
                f"must have no empty folder, `.` or `..` in it, but has {part or '//'}"
            )
    if "\\" in folder:
        raise ValueError("must have no backslash: some stores take it for a slash")
    if len(folder.encode()) > _FOLDER_BYTES:
        raise ValueError(f"must have at most {_FOLDER_BYTES} bytes: a key on S3 has 1,024")
    return folder


def require_directory(path: Path) -> Path:
    """A directory, with a leading `~` expanded.

    Raises:
        ValueError: it, or the working directory that it is relative to, can't be named to every
            library; says why.
    """
    if path.parts[:1] == ("~",):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise ValueError(
                "begins with ~, but the home directory is not known: set HOME"
            ) from None
    _require_readable(str(path.absolute()))
    return path


def require_delta_place(place: str) -> str:
    """The place of a Delta table: `s3://bucket/folder`, or a local directory.

    Raises:
        ValueError: `deltalake` would not find there what it wrote; says why.
    """
    if "://" not in place:
        path = require_directory(Path(place))
        # deltalake resolves links before it makes an address.
        _require_delta_name(str(path.resolve()))
        if found := _NOT_IN_DIRECTORY.search(str(path.resolve())):
            # Without the path: an address that lost its scheme can be one with a key.
            raise ValueError(
                f"must have no {found[0]} in the directory's whole path, links followed: deltalake"
                " can't address it"
            )
        return str(path)
    scheme, _, rest = place.partition("://")
    bucket, _, folder = rest.rstrip("/").partition("/")
    if scheme != "s3" or not _BUCKET.fullmatch(bucket) or not folder:
        raise ValueError("must be s3://bucket/folder or a local directory")
    _require_delta_name(require_folder(folder))
    return f"s3://{bucket}/{folder}"


def require_dagster_home(path: Path) -> None:
    """Check that Dagster can keep its databases in a directory.

    Raises:
        ValueError: it would make them elsewhere, because it makes an address of the name; says why.
    """
    if found := re.search(r"\?|%[0-9A-Fa-f]{2}", str(path.absolute())):
        raise ValueError(
            f"must have no {found[0]} in the directory's whole path {str(path.absolute())!r}:"
            " Dagster can't keep its databases there"
        )


def s3_uri(bucket: str, folder: str) -> str:
    """The URI of a folder in a bucket, with special characters encoded."""
    return f"s3://{bucket}/{quote(folder, safe='/')}"


def _require_delta_name(name: str) -> None:
    if found := _ESCAPE.search(name):
        raise ValueError(
            f"must have no percent-encoded character in it, but has {found[0]}: deltalake writes"
            " to another place then than it reads from"
        )
    if "_delta_log" in name.split("/"):
        raise ValueError("must name the table's folder, not its _delta_log")


def _require_readable(text: str) -> None:
    for position, character in enumerate(text):
        if unicodedata.category(character) in _UNREADABLE:
            raise ValueError(
                "must have no control characters and be UTF-8, but its character"
                f" {position + 1} is {character!a}"
            )
