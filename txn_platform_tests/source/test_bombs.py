"""Answers out of proportion: each ends in one message, or in rows, and in bounded memory."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from txn_platform.errors import UserError
from txn_platform.settings import load_settings
from txn_platform.source.api import SourceApi
from txn_platform.source.generator import open_source
from txn_platform.source.pages import NextLink
from txn_platform.windows import Window
from txn_platform_tests.support import forked
from txn_platform_tests.support.bombs import BOMBS, MEGABYTE, Bomb
from txn_platform_tests.support.served_handler import served_by
from txn_platform_tests.support.served_source import sent_row

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES: Final = 32 * MEGABYTE
_MOST_SECONDS: Final = 60


def _stream_of(row: dict[str, str | None]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist([row])
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


# A window that takes next to nothing, but goes all ways that rows can go.
_ROWS: Final = [json.dumps(sent_row(1) | {"x": "1"}), '{"amount":NaN,"amount":[{}]}']
_SMALL: Final = {
    "arrow": _stream_of(sent_row(1) | {"x": "1"}),
    "csv": b"transaction_id,amount,x\na,1,1\nb\nc,1,1\n",
    "ndjson": "\n".join([*_ROWS, _ROWS[0], ""]).encode(),
    "json": f'{{"data":[{",".join(_ROWS)}],"next":null}}'.encode(),
}


@contextmanager
def _served(bodies: dict[str, bytes]) -> Iterator[str]:
    """Answers with one of the bodies, by the address's path; 204 for one without bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies[urlsplit(self.path).path]
            self.send_response(200 if body else 204)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with served_by(Handler) as address:
        yield address


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def _take(path: str) -> tuple[int, str | None]:
    """Rows of a window of the source at a path, and the message that it ends in."""
    settings = load_settings()
    wire = settings.source_format
    api = SourceApi(path, NextLink() if wire == "json" else None, format=wire)
    source = open_source(settings, settings.generator_url or "", api)
    window = Window(datetime(2026, 11, 1, tzinfo=UTC))
    try:
        return sum(len(batch) for batch in source.batches(window, window.end)), None
    except UserError as error:
        return 0, str(error)


def take_both() -> None:
    """A small window, then a bomb; writes the rows, the message and by how much memory grew."""
    _take("/small")
    before = _peak()
    rows, message = _take("/bomb")
    sys.stdout.write(json.dumps([rows, message, _peak() - before]))


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(
            bomb, id=f"{bomb.wire}-{bomb.id}", marks=[pytest.mark.long] if bomb.long else []
        )
        for bomb in BOMBS
    ],
)
def test_a_bomb_ends_in_one_message_and_in_bounded_memory(bomb: Bomb, tmp_path: Path) -> None:
    body = bomb.make()
    with _served({"/bomb": body, "/small": _SMALL[bomb.wire]}) as url:
        environment = {
            "GENERATOR_URL": url,
            "GENERATOR_FORMAT": bomb.wire,
            "TXN_SOURCE_MAX_BYTES": str(_MOST_BYTES),
            "TXN_SOURCE_ATTEMPTS": "3",
        }
        out, err = tmp_path / "out", tmp_path / "err"
        process = forked.start(
            take_both, environment=environment, directory=tmp_path, stdout=out, stderr=err
        )
        process.join(_MOST_SECONDS)
        process.kill()
        process.join()
        assert process.exitcode == 0, err.read_text()
    rows, message, growth = json.loads(out.read_text())
    assert growth <= 2 * _MOST_BYTES, (message, growth)
    if bomb.message is None:
        assert message is None
        assert rows
    else:
        assert re.search(bomb.message, message or "")
        assert (message or "").isprintable()
        assert len(message or "") < 500
