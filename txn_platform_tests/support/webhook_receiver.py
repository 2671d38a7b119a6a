"""A receiver of webhooks that takes JSON, and that a test can make refuse."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from txn_platform_tests.support.served_handler import served_by

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class WebhookReceiver:
    """The messages that were received.

    Attributes:
        url: its address, which holds a secret.
        accepted: the messages that were answered with success.
        refused: how many were not.
        status: of its answers.
        paths: those that were requested, with their queries.
    """

    url: str = ""
    accepted: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    refused: int = 0
    status: int = 200
    paths: list[str] = field(default_factory=list[str])

    @property
    def titles(self) -> list[str]:
        """The titles of the messages that were accepted."""
        return [message["title"] for message in self.accepted]


@contextmanager
def receiving() -> Iterator[WebhookReceiver]:
    """Serve a receiver on a free port of the loopback interface."""
    receiver = WebhookReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.paths.append(self.path)
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if receiver.status == 200:
                receiver.accepted.append(sent)
            else:
                receiver.refused += 1
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with served_by(Handler) as address:
        receiver.url = f"{address}/hooks/a-secret-path?token=secret-too"
        yield receiver
