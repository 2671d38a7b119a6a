"""An API whose answers a test decides, which keeps the requests that it got."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from txn_platform_tests.support.served_handler import served_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True)
class Asked:
    """A request, as it came."""

    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class ServedApi:
    """The API.

    Attributes:
        answer: gives the JSON of an answer, or its bytes.
        status: of every answer.
        sent_headers: of every answer.
        asked: the requests so far.
        url: its address.
    """

    answer: Callable[[Asked], Any]
    status: int = 200
    sent_headers: dict[str, str] = field(default_factory=dict[str, str])
    asked: list[Asked] = field(default_factory=list[Asked])
    url: str = ""


@contextmanager
def served_api(answer: Callable[[Asked], Any]) -> Iterator[ServedApi]:
    """Serve an API on a free port of the loopback interface."""
    api = ServedApi(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = Asked(self.path, dict(self.headers), self.rfile.read(length))
            api.asked.append(asked)
            content = api.answer(asked)
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(api.status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in api.sent_headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with served_by(Handler) as api.url:
        yield api
