"""A check of who sends a request to a UI on this machine, for any ASGI app. It knows no Dagster.

A page of any site can make its reader's browser send requests to 127.0.0.1. The browser says where
they come from, in the headers `Host`, `Origin` and `Sec-Fetch-Site`; programs do not send the last
two, and are not refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from graphql import GraphQLSyntaxError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocketClose

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# With any port, which a tunnel may change.
_LOOPBACK: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_ELSEWHERE: Final = (
    "This address is not the one of the UI: open {address}, or set TXN_UI_URL to the address that a"
    " proxy gives it.\n"
)
_OTHER_SITE: Final = "A page of another site sent this request: open {address} yourself.\n"
_BY_GET: Final = "A mutation must be sent by POST, and this is one, or no valid GraphQL.\n"


class SameOrigin:
    """ASGI middleware that serves an app to its own pages, and to programs on this machine.

    Refused with 403: a `Host` that is neither loopback nor the address of the UI, because a site
    can let its own name lead to 127.0.0.1 (DNS rebinding); an `Origin` other than that host; and a
    request that `Sec-Fetch-Site` names as another site's, unless a person follows a link. Refused
    with 405: a GraphQL mutation by any other method than POST, which a link or an image could send.
    Websockets are refused before they open.

    Args:
        app: the ASGI app, with GraphQL at `/graphql`.
        address: of the UI, as its users open it.
    """

    def __init__(self, app: ASGIApp, address: str) -> None:
        self._app = app
        self._address = address
        self._host = urlsplit(address).netloc.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or websocket."""
        if scope["type"] in {"http", "websocket"}:
            headers = Headers(scope=scope)
            if reason := self._reason(scope, headers):
                if scope["type"] == "websocket":
                    await WebSocketClose()(scope, receive, send)
                else:
                    text = reason.format(address=self._address)
                    await PlainTextResponse(text, 403)(scope, receive, send)
                return
            if _may_be_mutation_by_get(scope):
                response = PlainTextResponse(_BY_GET, 405, {"Allow": "POST"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _reason(self, scope: Scope, headers: Headers) -> str | None:
        """Why a request is refused."""
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return _ELSEWHERE
        host = hosts[0].lower()
        if host != self._host and not _LOOPBACK.fullmatch(host):
            return _ELSEWHERE
        for origin in headers.getlist("origin"):
            if origin.lower() not in {f"http://{host}", f"https://{host}"}:
                return _OTHER_SITE
        own = {"same-origin", "none"}.issuperset(headers.getlist("sec-fetch-site"))
        return None if own or _is_link(scope, headers) else _OTHER_SITE


def _is_link(scope: Scope, headers: Headers) -> bool:
    """Whether a person opens a page, as from an alert, and no other page shows it in a frame."""
    return (
        scope.get("method") == "GET"
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
    )


def _may_be_mutation_by_get(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] == "POST" or scope["path"] != "/graphql":
        return False
    # The last one, as the app takes it.
    query = QueryParams(scope["query_string"]).get("query")
    if not query:
        return False
    try:
        operations = parse(query).definitions
    except GraphQLSyntaxError:
        # It may be too deep for the stack here, and not for that of the app.
        return True
    return any(
        isinstance(each, OperationDefinitionNode) and each.operation is OperationType.MUTATION
        for each in operations
    )
