"""A fake of Stripe's list of charges: `python -m examples.stripe_charges.fake_api 127.0.0.1:PORT`.

It has a charge for every minute, and serves them as Stripe does: newest first, in pages, to those
who have the key.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, override
from urllib.parse import parse_qs, urlsplit

_CURRENCIES = ("usd", "eur", "jpy")
_MINUTE = 60


@dataclass
class FakeStripe:
    """The charges and the behaviour of the fake.

    Attributes:
        key: that it accepts.
        late: charges that it does not have yet, by id.
        busy: how many of the next requests it answers with 429.
        asked: the requests so far, as path and query.
    """

    key: str = "sk_test_fake"
    late: set[str] = field(default_factory=set[str])
    busy: int = 0
    asked: list[str] = field(default_factory=list[str])

    def charges(self, start: int, end: int) -> list[dict[str, Any]]:
        """The charges of a time in seconds since 1970, newest first."""
        first = -(-start // _MINUTE)
        found = [_charge(minute) for minute in range(first, -(-end // _MINUTE))]
        return [charge for charge in reversed(found) if charge["id"] not in self.late]

    def answer(self, target: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of an answer."""
        self.asked.append(target)
        parts = urlsplit(target)
        if authorization != f"Bearer {self.key}":
            return 401, _error("Invalid API Key provided")
        if self.busy:
            self.busy -= 1
            return 429, _error("Too many requests")
        if parts.path != "/v1/charges":
            return 404, _error("Unrecognized request URL")
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        charges = self.charges(int(query["created[gte]"]), int(query["created[lt]"]))
        ids = [charge["id"] for charge in charges]
        after = query.get("starting_after")
        if after is not None and after not in ids:
            return 400, _error("No such charge")
        begin = 0 if after is None else ids.index(after) + 1
        limit = int(query.get("limit", "10"))
        return 200, {
            "object": "list",
            "url": "/v1/charges",
            "has_more": begin + limit < len(charges),
            "data": charges[begin : begin + limit],
        }

    def server(self, port: int = 0) -> ThreadingHTTPServer:
        """A server of it on the loopback interface."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, content = fake.answer(self.path, self.headers.get("Authorization"))
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(body)

            @override
            def log_message(self, format: str, *args: object) -> None:
                pass

        return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _charge(minute: int) -> dict[str, Any]:
    return {
        "id": f"ch_{minute:012}",
        "object": "charge",
        "created": minute * _MINUTE,
        "amount": minute % 9_000 + 50,
        "currency": _CURRENCIES[minute % len(_CURRENCIES)],
        "status": "failed" if minute % 20 == 0 else "succeeded",
        "captured": minute % 20 != 0,
        "refunded": False,
        "customer": None if minute % 3 else f"cus_{minute % 100:06}",
        "description": None if minute % 4 else f"Order {minute % 1_000}",
        "payment_method_details": {
            "type": "card",
            "card": {"brand": "visa", "last4": f"{minute % 10_000:04}"},
        },
        "metadata": {},
    }


def _error(message: str) -> dict[str, Any]:
    return {"error": {"type": "invalid_request_error", "message": message}}


if __name__ == "__main__":
    with FakeStripe().server(int(sys.argv[1].rpartition(":")[2])) as running:
        sys.stdout.write(f"listening on http://127.0.0.1:{running.server_port}\n")
        sys.stdout.flush()
        running.serve_forever()
