"""Secrets and card numbers that a test plants, and the search for them in all that is left."""

from __future__ import annotations

import base64
import gzip
import io
import re
import sqlite3
import zlib
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CARDS: Final = ("4539578763621486", "5105105105105100", "378282246310005")
SECRETS: Final = {
    "GENERATOR_TOKEN": "planted-generator-token-5f1c",
    "TXN_CARD_KEY": "567be134eb4be4c17524028d57f95e5ed2078695d6e6e73295787975bec47a10",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED4ACCESS7K",
    "AWS_SECRET_ACCESS_KEY": "planted/s3+secret/key+0b2f",
    "AWS_SESSION_TOKEN": "planted/session//token==8d31",
}
# Parts of addresses.
USER: Final = "planted-user"
PASSWORD: Final = "planted/pass"
PATH: Final = "planted-path-77aa"
QUERY: Final = "planted-query-19c4"
# Of the source's answers, and of errors.
TOKEN: Final = "sk_live_PlantedToken51HqLy"
PLANTED: Final = (*SECRETS.values(), USER, PASSWORD, "ss@127.0.0.1", PATH, QUERY, TOKEN)

_SQLITE: Final = b"SQLite format 3\0"
_PARQUET: Final = b"PAR1"
_COMPRESSED: Final = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def found_in(name: str, data: bytes) -> Iterator[str]:
    """The planted values in some bytes, also where they are compressed, encoded or in a table.

    Args:
        name: of the bytes, for the result.
        data: of a file, an object, or a stream.
    """
    for form in _forms(data):
        for word in PLANTED:
            if any(each in form for each in _spellings(word)):
                yield f"{name}: {word}"
        digits = re.sub(rb"[\s._/-]", b"", form)
        for card in CARDS:
            if re.search(rb"(?<!\d)" + card.encode() + rb"(?!\d)", digits):
                yield f"{name}: {card}"


def found_below(directory: Path, but: Iterable[str] = ()) -> Iterator[str]:
    """The planted values in the names and the content of all files below a directory.

    Args:
        directory: that is searched.
        but: patterns of the paths that are meant to have card numbers or keys.
    """
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and not any(path.match(pattern) for pattern in but):
            yield from found_in(name, name.encode() + b"\n")
            yield from found_in(name, path.read_bytes())


def _spellings(word: str) -> set[bytes]:
    return {
        word.encode(),
        quote(word).encode(),
        quote(word, safe="").encode(),
        word.replace("/", "\\/").encode(),
        base64.b64encode(word.encode()).rstrip(b"="),
        word.encode("utf-16-le"),
    }


def _forms(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and each form that they unpack to."""
    yield data
    if depth > 4:
        return
    for unpacked in _unpacked(data):
        yield from _forms(unpacked, depth + 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    if data.startswith(_SQLITE):
        yield from _cells(data)
    elif data.startswith(_PARQUET):
        yield from _columns(data)
    elif data.startswith(b"\x1f\x8b"):
        with suppress(OSError, EOFError, zlib.error):
            yield gzip.decompress(data)
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        with suppress(OSError):
            yield pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    elif data[:1] == b"x":
        with suppress(zlib.error):
            yield zlib.decompress(data)
    for encoded in _COMPRESSED.findall(data[: 1 << 20]):
        with suppress(ValueError):
            decoded = base64.b64decode(encoded, validate=True)
            if decoded[:1] == b"x" or decoded[:4] == b"\x28\xb5\x2f\xfd":
                yield decoded


def _cells(data: bytes) -> Iterator[bytes]:
    with closing(sqlite3.connect(":memory:")) as database:
        # Without its mark of a log beside it, which memory cannot have.
        database.deserialize(data[:18] + b"\1\1" + data[20:])
        tables = database.execute("select name, sql from sqlite_master").fetchall()
        yield repr(tables).encode()
        for name, sql in tables:
            if str(sql).upper().startswith("CREATE TABLE"):
                for row in database.execute(f'select * from "{name}"'):  # noqa: S608
                    for cell in row:
                        if cell is not None:
                            yield cell if isinstance(cell, bytes) else str(cell).encode()


def _columns(data: bytes) -> Iterator[bytes]:
    file = pq.ParquetFile(io.BytesIO(data))
    notes: dict[bytes, Any] = file.metadata.metadata or {}
    yield from (name + b"\n" + value for name, value in notes.items() if name != b"ARROW:schema")
    for column in file.read().to_pydict().items():
        yield repr(column).encode()
