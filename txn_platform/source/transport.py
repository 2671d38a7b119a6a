"""Requests to the source over a network that breaks: time-outs, retries, bounds.

An answer that breaks off is requested again. An answer beyond a bound is refused at once. `client`
knows the addresses, and `decoding` reads the bytes.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import time
from contextlib import closing
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, cast, override
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from txn_platform.backoff import Backoff, Retries
from txn_platform.errors import UserError, shown
from txn_platform.network import pool_manager
from txn_platform.redaction import quoted
from txn_platform.runbook import Section
from txn_platform.source.auth import headers_of, name_of, remedy
from txn_platform.source.content_coding import codings_in, decoded
from txn_platform.source.decode_limits import RefusedError, TooLargeError, UnreadableError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from txn_platform.source.auth import Auth
    from txn_platform.source.requests import Request

# Compressed bytes read at a time, and the size that they may always inflate to.
_COMPRESSED_BYTES: Final = 1 << 16
_INFLATED_BYTES: Final = 1 << 21
_BUFFER_BYTES: Final = 1 << 16
_REFUSAL_BYTES: Final = 1 << 16
_TAIL_BYTES: Final = 8
_CONNECTIONS: Final = 16
_LONGEST_CHUNK_LINE: Final = 1 << 12
# The pages of a slice together may take this many times as long as one answer.
_ANSWERS_OF_A_SLICE: Final = 12

GENERATOR_URL: Final = "GENERATOR_URL"
"""The setting that has the address of the generator."""

_LOOK_AT_ITS_LOG: Final = "look at its log"

# Temporary statuses: the next request may succeed (RFC 9110, RFC 8470, RFC 6585).
_TRANSIENT: Final = frozenset({408, 425, 429})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# A chunk's size and its extensions (RFC 9112, 7.1).
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[^\n]*)?\r?\n")
# A link and its parameters (RFC 8288), and one of these, with its value in quotes or without.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
_LINK: Final = re.compile(rf'<([^>]*)>((?:\s*;[^;,="<]*(?:=\s*(?:{_QUOTED}|[^",;<]*))?)*)')
_PARAMETER: Final = re.compile(rf';\s*([^;,="<\s]*)\s*(?:=\s*({_QUOTED}|[^",;<]*))?')
_NEXT: Final = re.compile(r"\bnext\b", re.IGNORECASE)
# The rows of a page and of all (RFC 9110, 14.4); PostgREST leaves the unit out.
_CONTENT_RANGE: Final = re.compile(
    r"\s*(?:(?!bytes\s)[^\s/]+\s+)?[^\s/]+/([0-9]{1,18})\s*", re.IGNORECASE
)
# Headers that say how much there is on all pages, or that there is another.
_STATES_ROWS: Final = ("X-Total-Count", "X-Total", "Total-Count", "X-WP-Total")
_STATES_PAGES: Final = ("X-Total-Pages", "X-Page-Count", "X-Pages", "X-WP-TotalPages")
_STATES_NEXT: Final = ("X-Next-Page", "X-Next-Cursor", "X-Next-Token", "X-Continuation-Token")
_STATES_MORE: Final = ("X-Has-More", "X-Has-Next")
# The media types that a message names; a source can write anything there.
_MEDIA_TYPES: Final = frozenset(
    {
        "application/json",
        "application/octet-stream",
        "application/problem+json",
        "application/vnd.apache.arrow.stream",
        "application/x-ndjson",
        "application/xml",
        "text/csv",
        "text/html",
        "text/plain",
        "text/xml",
    }
)
# The members of a refusal that say why (RFC 9457, and others that are usual).
_REASONS: Final = ("detail", "title", "message", "error_description", "error")


def source_backoff(
    attempts: int = 6, *, first_pause: float = 0.2, longest_pause: float = 60.0
) -> Backoff:
    """The backoff of requests to the source: pauses in seconds, lengthened by up to a quarter."""
    return Backoff(attempts, first_pause, longest_pause, jitter=(1.0, 1.25))


_BACKOFF: Final = source_backoff()


@dataclass(frozen=True)
class Limits:
    """The limits of a source: time, attempts and bytes.

    Attributes:
        connect_seconds: to make a connection.
        read_seconds: between two bytes.
        whole_seconds: from the request to the last byte of its answer.
        backoff: how often a request is made again when its answer breaks off. Its longest pause
            also limits Retry-After.
        document_bytes: of an answer without rows.
        page_bytes: of a JSON page of rows, or of one message of an Arrow stream.
        slice_bytes: of all answers of a slice of a window.
        slice_pages: answers of a slice of a window.
        inflation: how many times larger a compressed answer may become.
    """

    connect_seconds: float = 5.0
    read_seconds: float = 60.0
    whole_seconds: float = 300.0
    backoff: Backoff = _BACKOFF
    document_bytes: int = 1 << 20
    page_bytes: int = 1 << 26
    slice_bytes: int = 1 << 30
    slice_pages: int = 100_000
    inflation: int = 100

    @property
    def slice_seconds(self) -> float:
        """For all answers of a slice of a window."""
        return _ANSWERS_OF_A_SLICE * self.whole_seconds


class AbsentError(UserError):
    """The source has nothing at the address (404)."""


class Transport:
    """Makes requests to one source; safe for any number of threads.

    All of them go to the origin of its address: no redirect is followed, and no page elsewhere.
    """

    def __init__(
        self,
        url: str,
        limits: Limits,
        auth: Auth | None = None,
        named_by: str = GENERATOR_URL,
    ) -> None:
        """A client of one source.

        Args:
            url: its address, without a slash at the end.
            limits: on its answers.
            auth: ours; each attempt of a request has the headers that it gives then.
            named_by: the setting that has the address, for messages.
        """
        self.url = url
        self.named_by = named_by
        self.limits = limits
        self._auth = auth
        self._pool = pool_manager(
            url,
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=limits.connect_seconds, read=limits.read_seconds),
        )
        self._pool.pool_classes_by_scheme = _POOLS

    def get[T](
        self,
        request: Request,
        read: Callable[[Body], T],
        *,
        what: str,
        most_bytes: int,
        hint: str = _LOOK_AT_ITS_LOG,
        refused_hint: str = _LOOK_AT_ITS_LOG,
    ) -> T:
        """Send a request until a complete answer comes, and return the result of `read`.

        Args:
            request: of the source's origin.
            read: reads the answer's content to its end; raises `UnreadableError` if a retry may
                help. Called once per attempt.
            what: the name of the request in messages.
            most_bytes: how long the content may be.
            hint: the remedy in the message if it can't be read.
            refused_hint: the remedy if the source refuses it.

        Raises:
            AbsentError: there is nothing at the address.
            UserError: the source can't be reached, refuses, keeps failing, or goes beyond a bound.
        """
        retries = Retries(self.limits.backoff)
        while True:
            try:
                return self._once(request, read, what, most_bytes, refused_hint)
            except (UnreadableError, _FailedError, _AuthError, HTTPError, OSError) as error:
                cause = f"{self.url}: the request for {what} {self._fault(error)}"
                after = error.after if isinstance(error, _FailedError) else 0.0
                if not retries.again(cause, at_least=after):
                    raise self._given_up(error, what, hint) from None

    def _given_up(self, error: Exception, what: str, hint: str) -> UserError:
        if isinstance(error, NewConnectionError | ConnectTimeoutError):
            to_do = f"see whether it runs, and correct {self.named_by}"
            if self.named_by == GENERATOR_URL:
                to_do = (
                    "start it (python -m generator_service), fix GENERATOR_URL, or unset it to have"
                    " a generator started for each run"
                )
            return UserError(f"no source answers at {self.url}: {to_do}", Section.SOURCE_SILENT)
        unusable = isinstance(error, UnreadableError)
        to_do = hint if unusable else _LOOK_AT_ITS_LOG
        if isinstance(error, _AuthError) and self._auth is not None:
            to_do = f"look at {name_of(self._auth)}, the auth of its SourceApi"
        return UserError(
            f"{self.url} gave no usable answer for {what} in {self.limits.backoff.attempts}"
            f" attempts; the last {self._fault(error)}: {to_do}",
            Section.SOURCE_UNUSABLE if unusable else Section.SOURCE_SILENT,
        )

    def _fault(self, error: Exception) -> str:
        """How an attempt failed, as the end of a sentence."""
        match error:
            case _FailedError():
                return f"had status {error.status}"
            case UnreadableError() | _AuthError():
                return str(error)
            case ReadTimeoutError():
                return f"stalled for {self.limits.read_seconds:g} s"
            case NewConnectionError() | ConnectTimeoutError():
                return "could not connect"
            case _:
                return "broke off"

    def stopped(self, what: str, fault: str) -> UserError:
        """The error of an answer beyond a bound, which `fault` describes."""
        return UserError(
            f"{self.url} was stopped: its answer for {what} {fault}: look at what it sends; if that"
            " is right, let it send smaller pages or batches, or raise TXN_SOURCE_MAX_BYTES",
            Section.SOURCE_UNUSABLE,
        )

    def followed(self, page: str, reference: str) -> str:
        """The address of a page that another page names (RFC 3986, 5), which must be the source's.

        A service behind a proxy that removes the base's path names its pages without that path,
        which is then restored.

        Args:
            page: the address of the page that names it.
            reference: an address, or a part of one.

        Raises:
            UserError: it is of another origin.
        """
        base = urlsplit(self.url)
        try:
            named = urlsplit(urljoin(page, reference))
            same = "@" not in named.netloc and _origin(named) == _origin(base)
        except ValueError:
            raise UserError(
                f"{self.url} names a next page that is no address", Section.SOURCE_UNUSABLE
            ) from None
        if not same:
            # A password with a slash looks like a port and a path.
            place = "…" if "@" in reference else named.netloc
            raise UserError(
                f"{self.url} names a next page at {named.scheme}://{place}: a page of"
                " another origin is not followed",
                Section.SOURCE_UNUSABLE,
            )
        path = named.path
        if base.path and f"{base.path}{path}" == urlsplit(page).path:
            path = f"{base.path}{path}"
        # The request goes to the server of the setting, whatever the page's spelling of it.
        query = f"?{named.query}" if named.query else ""
        return f"{base.scheme}://{base.netloc}{path}{query}"

    def _once[T](
        self,
        request: Request,
        read: Callable[[Body], T],
        what: str,
        most_bytes: int,
        refused_hint: str,
    ) -> T:
        headers = self._headers(request)
        deadline = time.monotonic() + self.limits.whole_seconds
        try:
            with closing(self._ask(request, headers, deadline)) as response:
                self._require_success(response, what, refused_hint)
                return read(Body(response, most_bytes, self.limits))
        except (_BoundError, TooLargeError) as error:
            raise self.stopped(what, str(error)) from None
        except RefusedError as error:
            raise UserError(
                f"{self.url} sent what cannot be used: its answer for {what} {error}",
                Section.SOURCE_UNUSABLE,
            ) from None
        except ReadTimeoutError:
            if time.monotonic() < deadline:
                raise
            raise self.too_slow(what, self.limits.whole_seconds) from None

    def too_slow(self, what: str, seconds: float) -> UserError:
        """The error of answers that took too long."""
        return UserError(
            f"{self.url} was stopped: its answer for {what} took longer than {seconds:g} s; raise"
            " TXN_SOURCE_WHOLE_SECONDS if it is slow",
            Section.SOURCE_SILENT,
        )

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"User-Agent": "txn_platform"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            return headers | headers_of(self._auth, request)
        except OSError as error:
            raise _AuthError(f"could not be authenticated ({type(error).__name__})") from None

    def _ask(
        self, request: Request, headers: dict[str, str], deadline: float
    ) -> urllib3.HTTPResponse:
        token = _DEADLINE.set(deadline)
        try:
            response = self._pool.request(
                request.method,
                request.address,
                body=request.body,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
            )
        except (ConnectTimeoutError, NewConnectionError, ReadTimeoutError, ProtocolError):
            raise
        except InvalidHeader:
            raise UnreadableError("states its length twice, and not the same") from None
        except (SSLError, ProxyError) as error:
            raise UserError(
                f"{self.named_by} {self.url} can't be used: {error}", Section.SETTINGS
            ) from None
        except (HTTPError, ValueError):
            # Their messages have the whole address.
            raise UserError(
                f"{self.named_by} {self.url} can't be used: it is no address of a server, or a"
                " path that the settings name cannot be requested",
                Section.SETTINGS,
            ) from None
        finally:
            _DEADLINE.reset(token)
        return cast("urllib3.HTTPResponse", response)

    def _require_success(
        self, response: urllib3.HTTPResponse, what: str, refused_hint: str
    ) -> None:
        status = response.status
        if status in {200, 204}:
            return
        if status in _TRANSIENT or status >= 500:
            after = map(_seconds, response.headers.getlist("Retry-After"))
            raise _FailedError(status, max(after, default=0.0))
        refused = f"{self.url} refused {what} with status {status}"
        if status in {401, 403}:
            raise UserError(
                f"{refused} ({_described(response)}): {remedy(self._auth)}",
                Section.SOURCE_UNUSABLE,
            )
        if 300 <= status < 400:
            raise UserError(
                f"{refused}, a redirect: none is followed; let {self.named_by} name the service"
                " that answers",
                Section.SOURCE_UNUSABLE,
            )
        error = AbsentError if status == 404 else UserError
        raise error(f"{refused} ({_described(response)}): {refused_hint}", Section.SOURCE_UNUSABLE)


class Body(io.RawIOBase):
    """An answer's content, inflated, that must end within its bounds.

    Attributes:
        is_empty: whether the status says that there is no content (204).
        is_delimited: whether HTTP or a content coding marks the end, not only the connection's end.
        has_link: whether it has a Link header.
        next_link: the address of the next page in that header (RFC 8288), if any.
        more: the header that says that there is a next page without its address, if any.
        stated_rows: the number of rows of all pages in a header, and that header's name.
        stated_pages: the number of pages, likewise.
        size: how many bytes were read.
        tail: the last eight bytes read, or fewer.
    """

    def __init__(self, response: urllib3.HTTPResponse, most_bytes: int, limits: Limits) -> None:
        super().__init__()
        # A reader at the end must see the end, not a closed file.
        response.auto_close = False
        self._response = response
        self._most_bytes = most_bytes
        self._limits = limits
        self.is_empty = response.status == 204
        codings = [] if self.is_empty else codings_in(response.headers.get("Content-Encoding"))
        self.is_delimited = _is_delimited(response) or bool(codings)
        self.has_link = "Link" in response.headers
        self.next_link = _next_link(response.headers.get("Link"))
        self.more = _stated_more(response.headers)
        self.stated_rows = _stated_rows(response.headers)
        self.stated_pages = _stated_count(response.headers, _STATES_PAGES)
        # An uncompressed message is read in one piece, to avoid a copy.
        self._piece_bytes = _COMPRESSED_BYTES if codings else limits.page_bytes
        self._content = decoded(_Sent(response, most_bytes), codings)
        self._ended = False
        self.size = 0
        self.tail = b""

    @override
    def readable(self) -> bool:
        return True

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, fewer only at the end; all bytes for -1."""
        if size is None or size < 0:
            left = self._most_bytes + 1
        elif size > self._limits.page_bytes:
            raise _BoundError(f"has a message of {size:,} bytes")
        else:
            left = size
        pieces: list[bytes] = []
        while left and (piece := self._piece(left)):
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @override
    def readinto(self, buffer: Any, /) -> int:
        piece = self._piece(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, size: int) -> bytes:
        # One byte beyond the limit is enough to detect it.
        size = min(size, self._piece_bytes, self._most_bytes - self.size + 1)
        piece = b"" if self._ended else self._content.read(size)
        self._ended = not piece
        self.size += len(piece)
        if self.size > self._most_bytes:
            raise _too_long(self._most_bytes)
        if self.size > max(_INFLATED_BYTES, self._limits.inflation * self._response.tell()):
            raise _BoundError(f"inflates more than {self._limits.inflation} times")
        self.tail = (self.tail + piece[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        return piece


class _Sent(io.RawIOBase):
    """An answer's content as sent, within its bound."""

    def __init__(self, response: urllib3.HTTPResponse, most_bytes: int) -> None:
        super().__init__()
        self._response = response
        self._most_bytes = most_bytes

    @override
    def read(self, size: int = -1, /) -> bytes:
        piece = self._response.read(size, decode_content=False)
        # A long compressed answer may inflate to almost nothing.
        if self._response.tell() > self._most_bytes + _COMPRESSED_BYTES:
            raise _too_long(self._most_bytes)
        return piece


class _FailedError(Exception):
    """An answer with a status that may be different the next time."""

    def __init__(self, status: int, after: float) -> None:
        super().__init__(status)
        self.status = status
        self.after = after


class _AuthError(Exception):
    """A request could not be authenticated, as another server did not answer."""


class _BoundError(Exception):
    """An answer is beyond a bound; the message is the end of a sentence."""


def _too_long(most_bytes: int) -> _BoundError:
    return _BoundError(f"is longer than {most_bytes:,} bytes")


# The time by which the answer to this thread's request must be complete.
_DEADLINE: ContextVar[float] = ContextVar("_DEADLINE")


class _Timed(io.RawIOBase):
    """A socket's bytes, until a deadline.

    A socket's own time-out starts again with every byte, so it allows a byte a second for ever.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, deadline: float) -> None:
        super().__init__()
        self._raw = raw
        self._connection = connection
        self._deadline = deadline

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if left < (self._connection.gettimeout() or left):
            self._connection.settimeout(left)
        return self._raw.readinto(buffer)

    @override
    def close(self) -> None:
        self._raw.close()
        super().close()


class _Reply(http.client.HTTPResponse):
    """An answer with a deadline for its status, headers and content.

    Its framing is checked strictly, because http.client accepts framing that hides a cut answer.
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        timed = _Timed(self.fp.detach(), sock, _DEADLINE.get())
        self.fp = io.BufferedReader(timed, _BUFFER_BYTES)

    @override
    def begin(self) -> None:
        super().begin()
        if self.length is None and not self.chunked:
            # The same length twice is one length; http.client would read until the connection ends.
            stated = _lengths(self.headers.get_all("Content-Length", []))
            if len(stated) == 1 and (length := stated.pop()).isdecimal():
                self.length = int(length)

    def _read_status(self) -> tuple[str, int, str]:
        read: Callable[[], tuple[str, int, str]] = cast("Any", super())._read_status
        while 100 < (status := read())[1] < 200:
            http.client.parse_headers(self.fp)
        return status

    def _read_next_chunk_size(self) -> int:
        size = _CHUNK_SIZE.fullmatch(self.fp.readline(_LONGEST_CHUNK_LINE))
        if size is None:
            self.close()
            raise ValueError
        return int(size[1], 16)


class _Connection(HTTPConnection):
    response_class = _Reply


class _SecureConnection(HTTPSConnection):
    response_class = _Reply


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = cast("Any", _Connection)


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = cast("Any", _SecureConnection)


_POOLS: Final[dict[str, type[urllib3.HTTPConnectionPool]]] = {"http": _Pool, "https": _SecurePool}


def _lengths(headers: list[str]) -> set[str]:
    return {length.strip() for header in headers for length in header.split(",")}


def _is_delimited(response: urllib3.HTTPResponse) -> bool:
    """Whether HTTP says where an answer ends (RFC 9112, 6.3).

    Raises:
        UnreadableError: it says so in a way that is not known, or in two ways.
    """
    transfer = ", ".join(response.headers.getlist("Transfer-Encoding")).strip().lower()
    if transfer not in {"", "identity", "chunked"}:
        raise UnreadableError(f"has the transfer coding {shown(transfer)}, which is not known")
    lengths = _lengths(response.headers.getlist("Content-Length"))
    if transfer != "chunked" and (
        len(lengths) > 1 or not all(one.isascii() and one.isdecimal() for one in lengths)
    ):
        raise UnreadableError("states a length that is none")
    return transfer == "chunked" or bool(lengths) or response.status == 204


def _next_link(header: str | None) -> str | None:
    """The target of the link to a next page in a Link header.

    Raises:
        RefusedError: it has several, or one that cannot be read.
    """
    header = header or ""
    targets: set[str] = set()
    for target, parameters in _LINK.findall(header):
        for name, value in _PARAMETER.findall(parameters):
            # Some servers write apostrophes where the standard has quotes.
            if name.lower() == "rel" and "next" in re.split(r"[\s\"']+", value.lower()):
                targets.add(target)
    if len(targets) > 1 or _NEXT.search(_LINK.sub("", header)):
        raise RefusedError(
            "has a Link header from which the next page cannot be told: let the source send one"
            ' link to it, as <address>; rel="next"'
        )
    return targets.pop() if targets else None


def _stated_more(headers: Mapping[str, str]) -> str | None:
    """The name of a header that says that there is a next page, without its address."""
    for name in _STATES_NEXT:
        if headers.get(name, "").strip():
            return name
    return next((name for name in _STATES_MORE if headers.get(name, "").lower() == "true"), None)


def _stated_rows(headers: Mapping[str, str]) -> tuple[str, int] | None:
    """The number of rows of all pages that a header states, and the header's name."""
    stated = _stated_count(headers, _STATES_ROWS)
    if stated is not None:
        return stated
    complete = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    return complete and ("Content-Range", int(complete[1]))


def _stated_count(headers: Mapping[str, str], names: Sequence[str]) -> tuple[str, int] | None:
    for name in names:
        text = headers.get(name, "").strip()
        if text.isascii() and text.isdecimal():
            return name, int(text[:18])
    return None


def same_origin(url: str, other: str) -> bool:
    """Whether two addresses of servers have the same origin (RFC 6454)."""
    return _origin(urlsplit(url)) == _origin(urlsplit(other))


def _origin(address: SplitResult) -> tuple[str, str, int | None]:
    """The origin of an address (RFC 6454), in one spelling."""
    host = (address.hostname or "").rstrip(".")
    port = address.port or _DEFAULT_PORTS.get(address.scheme)
    return address.scheme, host if host.isascii() else host.encode("idna").decode(), port


def _seconds(retry_after: str) -> float:
    """How long a Retry-After header asks to wait, in seconds or as a date; 0 without one."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:10])
    try:
        moment = parsedate_to_datetime(text)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (zoned - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, LookupError, OverflowError):
        return 0.0


def _described(response: urllib3.HTTPResponse) -> str:
    """Media type and length of a refusal, and the plain words that it begins with."""
    try:
        content = response.read(_REFUSAL_BYTES + 1)
    except (HTTPError, OSError):
        content = b""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type and media_type not in _MEDIA_TYPES:
        media_type = "another media type"
    size = f"{len(content):,} bytes"
    if len(content) > _REFUSAL_BYTES:
        size = f"more than {_REFUSAL_BYTES:,} bytes"
    described = f"{media_type or 'no media type'}, {size}"
    reason = _reason(content, media_type)
    return f"{described}, {reason!r}" if any(map(str.isalpha, reason)) else described


def _reason(content: bytes, media_type: str) -> str:
    """The reason in a refusal, as `quoted`; empty for content that is not for people."""
    text = content[:_REFUSAL_BYTES].decode(errors="replace")
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return quoted(text) if media_type == "text/plain" else ""
    if not isinstance(members, dict):
        return ""
    named = cast("dict[str, Any]", members)
    reasons = (reason for name in _REASONS if isinstance(reason := named.get(name), str))
    return quoted(next(reasons, ""))
