"""Who may ask: this machine only, or whoever has a key.

Without a file of keys the service answers on loopback only, however it was started. With one, each
request needs a key (RFC 6750), but for the pages and the state of the service.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from generator_service import faults, keys
from generator_service.keys import Key, KeysError, KnownKeys
from generator_service.models import RequestError

_LOG = logging.getLogger(__name__)
_KEY = "generator_service.key"
_PAGES = re.compile(r"/|/healthz|/openapi\.json|/docs(/.*)?")
# Set by proxies: whoever sends the request is not on this machine, or need not be.
_FORWARDED = re.compile(
    r".*forward(ed|er)(-.*)?|via|cdn-loop|x-host|x-(original|rewrite|proxyuser|envoy)-.*"
    r"|(.+-)?(client|connecting|connection|originating|peer|real|remote|socket|source|user|viewer)"
    r"-?(addr|address|host|ip|ipv6|port|user)"
)
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<name>[^:]*))(?::\d*)?")
_HOW_TO_OPEN = (
    "It has no keys, so it serves this machine only. Add a key to it (python -m generator_service"
    " keys add), or set GENERATOR_OPEN=true to let everyone in who reaches it."
)
_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="A key that `python -m generator_service keys add` has printed.",
)


class Access:
    """Refuses requests that are not allowed, before anything else looks at them.

    Args:
        app: the application behind it.
        known: the keys of the service.
        is_open: whether requests need neither a key nor to come from this machine.
        refuse: returns the problem of an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        known: KnownKeys,
        is_open: bool,
        refuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._known = known
        self._is_open = is_open
        self._refuse = refuse
        self._logged = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http":
            try:
                self._admit(scope)
            except RequestError as error:
                response = await self._refuse(Request(scope), error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        try:
            required = self._known.required()
        except KeysError as error:
            # Once, however many requests come.
            if str(error) != self._logged:
                self._logged = str(error)
                _LOG.error("no request is answered: %s", error)
            raise _unusable() from None
        self._logged = ""
        headers = Headers(scope=scope)
        if not required:
            if not self._is_open and (why := _elsewhere(scope, headers)):
                raise _not_local(why)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        # Other methods have no faults, and are refused as such.
        asks_faults = faults.HEADER in headers and scope["method"] in {"GET", "HEAD"}
        if _PAGES.fullmatch(path) and not asks_faults:
            return
        key = scope[_KEY] = self._key(headers.getlist("authorization"))
        if asks_faults:
            require_scopes(key, [keys.Scope.FAULTS])
        if wait := self._known.wait(key):
            raise RequestError(
                HTTPStatus.TOO_MANY_REQUESTS,
                detail=f"The key {key.name} may make {key.requests_per_minute:,} requests a minute;"
                f" send the next one in {wait} s.",
                headers={"Retry-After": str(wait)},
            )

    def _key(self, authorization: list[str]) -> Key:
        if not authorization:
            raise _unauthorized("Send a key of this service, as Authorization: Bearer and the key.")
        scheme, _, token = authorization[0].strip().partition(" ")
        key = self._known.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None or len(authorization) > 1:
            raise _unauthorized(
                "The header Authorization has no key of this service; keys that were revoked are"
                " none.",
                ', error="invalid_token"',
            )
        return key


async def scopes_allowed(
    request: Request,
    scopes: SecurityScopes,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> None:
    """Require the scopes of a route; a dependency.

    Raises:
        RequestError: the request has no key, or one without a scope, and needs one (401, 403).
    """
    known: KnownKeys = request.app.state.keys
    if known.required():
        key: Key | None = request.scope.get(_KEY)
        if key is None:
            raise _unauthorized("Send a key of this service, as Authorization: Bearer and the key.")
        require_scopes(key, scopes.scopes)


def require_scopes(key: Key, scopes: list[str]) -> None:
    """Raise RequestError (403) when a key lacks one of the scopes."""
    for scope in scopes:
        if scope not in key.scopes:
            raise RequestError(
                HTTPStatus.FORBIDDEN,
                detail=f"The key {key.name} may not ask for {scope}; add one with --scope {scope}.",
                headers={
                    "WWW-Authenticate": _challenge(f', error="insufficient_scope", scope="{scope}"')
                },
            )


def key_name(scope: Scope) -> str | None:
    """Return the name of the key that a request came with; None without one."""
    key: Key | None = scope.get(_KEY)
    return None if key is None else key.name


def is_loopback(host: str) -> bool:
    """Return whether an IP address is one of this machine alone."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _elsewhere(scope: Scope, headers: Headers) -> str | None:
    """Return what says that a request does not come from this machine."""
    match scope.get("server"):
        case [_, None]:
            pass  # a Unix socket
        case [str(address), _] if is_loopback(address):
            pass
        case _:
            return "came to an address that other machines reach"
    if name := next(_forwarding(headers), None):
        return f"was forwarded by a proxy, as its header {name} says"
    # A page of another host can lead a browser here, by a name that it resolves to loopback.
    if not all(map(_is_local_name, headers.getlist("host"))):
        return "was sent to the name of another host"
    return None


def _forwarding(headers: Headers) -> Iterator[str]:
    # Some proxies write underscores.
    return (name for name in headers if _FORWARDED.fullmatch(name.replace("_", "-")))


def _is_local_name(host: str) -> bool:
    parts = _HOST.fullmatch(host.strip())
    if parts is None:
        return False
    name = (parts["ipv6"] or parts["name"] or "").lower().removesuffix(".")
    # Without a dot it is a name that only this network knows, such as that of a container.
    known_here = name.endswith(".localhost") or not re.search("[.:]", name)
    return known_here or is_loopback(name)


def _challenge(rest: str = "") -> str:
    return f'Bearer realm="generator_service"{rest}'


def _unauthorized(detail: str, rest: str = "") -> RequestError:
    return RequestError(
        HTTPStatus.UNAUTHORIZED, detail=detail, headers={"WWW-Authenticate": _challenge(rest)}
    )


def _not_local(why: str) -> RequestError:
    return RequestError(HTTPStatus.FORBIDDEN, detail=f"This request {why}. {_HOW_TO_OPEN}")


def _unusable() -> RequestError:
    return RequestError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        detail="The service cannot use its file of keys; its log says why.",
        headers={"Retry-After": "60"},
    )
