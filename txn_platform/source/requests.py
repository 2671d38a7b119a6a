"""Requests for the rows of a source, as values: an address, and a JSON body for a POST.

`api` makes the first request of a window, `pages` the later ones, and `transport` sends them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Request:
    """One request. Its `repr` shows nothing, because address and body can have a key.

    Attributes:
        address: absolute, with its query.
        body: JSON in UTF-8, which is sent by POST; None for GET.
    """

    address: str = field(repr=False)
    body: bytes | None = field(default=None, repr=False)

    @property
    def method(self) -> str:
        """`GET` or `POST`."""
        return "GET" if self.body is None else "POST"

    def with_parameter(self, name: str, value: str | int) -> Request:
        """The same request with a parameter of the query, instead of those of that name."""
        parts = urlsplit(self.address)
        others = [
            pair
            for pair in parts.query.split("&")
            if pair and unquote_plus(pair.partition("=")[0]) != name
        ]
        query = "&".join([*others, f"{quote(name, safe='')}={quote(str(value), safe='')}"])
        return replace(self, address=parts._replace(query=query).geturl())

    def with_member(self, path: Sequence[str], value: str | int) -> Request:
        """The same request with a member of its body; `path` has the names on the way to it."""
        body: dict[str, Any] = json.loads(self.body or b"{}")
        members = body
        for name in path[:-1]:
            within = members.get(name)
            members[name] = members = dict(within) if isinstance(within, dict) else {}
        members[path[-1]] = value
        return replace(self, body=json_body(body))


def json_body(members: Mapping[str, Any]) -> bytes:
    """The JSON text of a body."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
