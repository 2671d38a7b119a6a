"""The helpers of the tests on which the others rest."""

from __future__ import annotations

import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from txn_platform_tests.conftest import pytest_collection_modifyitems
from txn_platform_tests.support.moto_server import one_at_a_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import StartResponse, WSGIEnvironment


def _request(body: Any, size: int) -> WSGIEnvironment:
    return {"CONTENT_LENGTH": str(size), "wsgi.input": body}


def _answered(*_: object) -> Callable[[bytes], object]:
    return io.BytesIO().write


def test_requests_to_moto_do_not_meet() -> None:
    met: list[bytes] = []
    busy = threading.Lock()

    def app(environ: WSGIEnvironment, _: StartResponse) -> list[bytes]:
        body = environ["wsgi.input"].read()
        if not busy.acquire(blocking=False):
            met.append(body)
            return [body]
        time.sleep(0.01)
        busy.release()
        return [body]

    served = one_at_a_time(app)

    def ask(body: bytes) -> list[bytes]:
        return list(served(_request(io.BytesIO(body + b"more"), len(body)), _answered))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, [b"a", b"b", b"c", b"d"])) == [[b"a"], [b"b"], [b"c"], [b"d"]]
    assert met == []


def test_half_a_request_to_moto_stops_no_other() -> None:
    served = one_at_a_time(lambda environ, _: [environ["wsgi.input"].read()])
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as half, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(lambda: list(served(_request(half, 4), _answered)))
        os.write(writer, b"ha")
        assert list(served(_request(io.BytesIO(b"all"), 3), _answered)) == [b"all"]
        assert not waits.done()
        os.write(writer, b"lf")
        os.close(writer)
        assert waits.result() == [b"half"]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "files",
    [
        ["test_a.py"] * 10 + ["test_dg.py"] * 3 + ["test_b.py"] * 9 + ["test_examples.py"] * 4,
        ["test_dg.py"] * 5,
        ["test_a.py"],
        [],
    ],
)
def test_long_tests_begin_first_and_none_is_lost(files: list[str], workers: int) -> None:
    items: Any = [SimpleNamespace(path=Path(name), number=at) for at, name in enumerate(files)]
    before = list(items)
    config: Any = SimpleNamespace(workerinput={"workercount": workers})
    pytest_collection_modifyitems(config, items)
    assert sorted(item.number for item in items) == [item.number for item in before]
    if files:
        assert (items[0].path.name == "test_examples.py") == ("test_examples.py" in files)
    # Without workers, the order is that of the files.
    items = list(before)
    alone: Any = SimpleNamespace()
    pytest_collection_modifyitems(alone, items)
    assert items == before
