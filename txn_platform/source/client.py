"""The client of the source: it fetches the rows of a window, as batches.

Only this module knows the source's API. Another source needs other settings, or another module like
this one. `decoding` reads the bytes, and `defs/resources` starts a generator.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter, defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import as_frame, integers
from txn_platform.contract.drift import find_drift
from txn_platform.contract.model import EXTRA_FIELDS
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError, shown
from txn_platform.logs import logger
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.runbook import Section
from txn_platform.source.decode_limits import Budget, UnreadableError
from txn_platform.source.decoding import DECODERS, FORMATS, PAGES, UNREADABLE, page
from txn_platform.source.json_objects import without_repeats
from txn_platform.source.transport import (
    AbsentError,
    Limits,
    Transport,
    same_origin,
    source_backoff,
)
from txn_platform.windows import Window, iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import SecretStr

    from txn_platform.contract.drift import Drift
    from txn_platform.contract.model import Contract
    from txn_platform.settings import Settings
    from txn_platform.source.decoding import NextPage
    from txn_platform.source.transport import Body

_LOG: Final = logger(__name__)

# A slice is in memory until it is complete. In formats that stream, retries repeat a slice.
_SLICE_ROWS: Final = 1 << 19
_FIRST_SLICE: Final = timedelta(minutes=1)
_SHORTEST_SLICE: Final = timedelta(milliseconds=100)
_LARGEST_STEP: Final = 8
# Large enough for a small share of fixed cost per page.
_PAGE_ROWS: Final = 25_000
# Pages of a slice come one after the other, so several slices are fetched at once. Short slices
# keep all fetches busy until the end.
_SLICES_OF_PAGES: Final = 3
_SLICE_OF_PAGES_ROWS: Final = 1 << 17
_EMPTY_PAGES: Final = 100
_TIMES_BELIEVED: Final = 3
_TIMES_AT_OTHER_ADDRESSES: Final = 2
# Answers that may begin with the same row and still differ.
_TIMES_ALIKE: Final = 4
_END_OF_ARROW: Final = b"\xff\xff\xff\xff\0\0\0\0"
_MARK: Final = f'{{"{UNREADABLE}":'
_LOOK_AT_ITS_LOG: Final = "look at its log"
_NOT_ITS_PAGES: Final = "look at what it sends, and at TXN_SOURCE_ITEMS"
_OTHER_SERVICE: Final = (
    "GENERATOR_URL must name a service with the API of generator_service, or TXN_SOURCE_ settings"
    " describe its API"
)


@dataclass(frozen=True)
class SourceApi:
    """The API of a source; the defaults are the generator's.

    In the paths, `{start}`, `{end}` and `{as_of}` stand for times (RFC 3339), `{format}` for the
    format, and `{offset}` for the number of rows received so far. A path with `{offset}` is
    requested until an answer has no rows.

    Attributes:
        format: `arrow`, `csv` or `ndjson` stream a window, `json` gives it in pages.
        transactions: the path of a window's rows.
        items: the names on the way to the rows in a JSON page, joined by dots.
        next: the names on the way to the next page's address, which is relative to the page's own.
            On the last page it is null or an empty text.
        next_absent: `end` for a source that leaves `next` out on its last page, also if that is the
            first page; None for a source that always has it.
        totals: the path of a window's control totals; None for a source that states none.
        description: the path of its OpenAPI description; None for a source without one.
        watermark: the path of the end of the newest complete hour; None to use the clock.
    """

    format: str = "arrow"
    # Its query can have a key.
    transactions: str = field(
        default="/v1/transactions?start={start}&end={end}&as_of={as_of}&format={format}&types=text",
        repr=False,
    )
    items: str = "data"
    next: str = "next"
    next_absent: Literal["end"] | None = None
    totals: str | None = "/v1/control-totals?start={start}&end={end}&as_of={as_of}"
    description: str | None = "/openapi.json"
    watermark: str | None = "/v1/watermark"


def source_api(settings: Settings) -> SourceApi:
    """The API of the source that the settings name.

    Raises:
        UserError: there is no format of the given name.
    """
    if settings.source_format not in FORMATS:
        # Without the value: a wrong one can be an address with a key.
        raise UserError(
            "the setting GENERATOR_FORMAT is not the name of a format: set it to one of"
            f" {', '.join(FORMATS)}",
            Section.SETTINGS,
        )
    if settings.source_transactions is None:
        paged = f"&limit={_PAGE_ROWS}" if settings.source_format == PAGES else ""
        return SourceApi(
            format=settings.source_format, transactions=f"{SourceApi.transactions}{paged}"
        )
    return SourceApi(
        format=settings.source_format,
        transactions=settings.source_transactions,
        items=settings.source_items,
        next=settings.source_next,
        next_absent=settings.source_next_absent,
        totals=None,
        description=None,
        watermark=None,
    )


def source_limits(settings: Settings) -> Limits:
    """The limits of the source that the settings name."""
    return Limits(
        read_seconds=settings.source_read_seconds,
        whole_seconds=settings.source_whole_seconds,
        backoff=source_backoff(settings.source_attempts),
        slice_bytes=settings.source_max_bytes,
    )


def source_token(settings: Settings, url: str) -> SecretStr | None:
    """The token for the source at an address: that of `GENERATOR_TOKEN`, if it is for there.

    It is for the origin of `GENERATOR_URL`. A generator that the platform starts needs none, and an
    address in a run's config must not get it.
    """
    if settings.generator_url is None or not same_origin(url, settings.generator_url):
        return None
    return settings.source_token


def settings_source(settings: Settings, url: str, contract: Contract = TRANSACTIONS) -> Source:
    """The source at an address, with the API, the limits and the token of the settings.

    Raises:
        UserError: the settings describe no API.
    """
    token = source_token(settings, url)
    return Source(url, source_api(settings), source_limits(settings), token, contract)


class Source:
    """A generator service, or another source of transactions.

    Every method raises `UserError` when the source can't be reached or refuses.
    """

    def __init__(
        self,
        url: str,
        api: SourceApi | None = None,
        limits: Limits | None = None,
        token: SecretStr | None = None,
        contract: Contract = TRANSACTIONS,
    ) -> None:
        """A source at an address.

        Args:
            url: its address.
            api: its API; the generator's without it.
            limits: on its answers.
            token: see `Transport`.
            contract: of its rows.
        """
        self._contract = contract
        self._api = api or SourceApi()
        self._transport = Transport(url.rstrip("/"), limits or Limits(), token)

    @property
    def limits(self) -> Limits:
        """The bounds on its answers."""
        return self._transport.limits

    @property
    def states_totals(self) -> bool:
        """Whether it states control totals of its windows."""
        return self._api.totals is not None

    def watermark(self) -> datetime:
        """The end of the newest window that is complete."""
        if self._api.watermark is None:
            return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

        def read(body: Body) -> datetime:
            answer = _json(body, without_repeats)
            try:
                moment = datetime.fromisoformat(answer["watermark"])
                in_utc = moment.astimezone(UTC)
            except (KeyError, TypeError, ValueError, OverflowError):
                raise UnreadableError("has no time under 'watermark'") from None
            if moment.tzinfo is None:
                raise UnreadableError("has a time without a zone under 'watermark'")
            return in_utc

        return self._document(self._api.watermark, read)

    def require_complete(self, window: Window) -> datetime:
        """Raise a `UserError` when the window is not over yet; returns the watermark."""
        watermark = self.watermark()
        if window.end > watermark:
            raise UserError(
                f"partition {window.partition_key} is not complete:"
                f" the source has complete hours up to {iso(watermark)}",
                Section.WINDOW_INCOMPLETE,
            )
        return watermark

    def control_totals(self, window: Window, as_of: datetime) -> ControlTotals | None:
        """The control totals that the source states of a window; None when it states none.

        Args:
            window: which.
            as_of: rows that arrived later do not count.
        """
        if self._api.totals is None:
            return None
        path = _filled(self._api.totals, start=window.start, end=window.end, as_of=as_of)

        def read(body: Body) -> ControlTotals:
            try:
                return ControlTotals.parse(body.read(), without_repeats)
            except ValueError:
                raise UnreadableError("is no statement of control totals") from None

        return self._document(path, read)

    def drift(self, window: Window) -> list[Drift] | None:
        """How the source's own description of its rows differs from the contract in a window.

        Returns:
            The differences; None for a source that does not describe its rows.
        """
        if self._api.description is None:
            return None
        try:
            description = self._document(self._api.description, _json)
        except AbsentError:
            return None
        route = self._api.transactions.partition("?")[0]
        items = self._api.items.split(".")
        return find_drift(description, route, items, window.end, self._contract)

    def first_rows(self, window: Window, as_of: datetime) -> int:
        """How many rows the first slice of a window has: the least that can be asked for.

        Args:
            window: which; of a source without control totals, all of it is the slice.
            as_of: rows that arrived later are left out.
        """
        end = min(window.start + _FIRST_SLICE, window.end) if self._api.totals else window.end
        return sum(batch.num_rows for batch in self._slice(window.start, end, as_of))

    def batches(self, window: Window, as_of: datetime) -> Iterator[pa.RecordBatch]:
        """The rows of a window as sent, in the source's order.

        The window is requested in slices of time. A slice whose answer breaks off is retried alone,
        so that a fault never costs the window. The number of rows in a slice determines the length
        of the next, which is fetched while the caller works on this one.

        Args:
            window: which.
            as_of: rows that arrived later are left out.

        Yields:
            Batches with the columns of the contract's `landed_schema`.
        """
        position = 0
        for batch in self._slices(window, as_of):
            positions = integers(np.arange(position, position + batch.num_rows))
            yield pa.RecordBatch.from_arrays(
                [positions, *batch.columns], schema=self._contract.landed_schema
            )
            position += batch.num_rows

    def _slices(self, window: Window, as_of: datetime) -> Iterator[pa.RecordBatch]:
        abreast, slice_rows = 1, _SLICE_ROWS
        if self._api.format == PAGES:
            abreast, slice_rows = _SLICES_OF_PAGES, _SLICE_OF_PAGES_ROWS
        pool = ThreadPoolExecutor(abreast, "fetch")
        fetched: deque[tuple[timedelta, Future[list[pa.RecordBatch]]]] = deque()
        start = window.start

        def ask(length: timedelta) -> None:
            nonlocal start
            end = min(start + length, window.end)
            fetched.append((end - start, pool.submit(self._slice, start, end, as_of)))
            start = end

        try:
            # Another source may not support windows shorter than an hour.
            ask(_FIRST_SLICE if self._api.totals else window.end - window.start)
            while fetched:
                length, slice_ = fetched.popleft()
                batches = slice_.result()
                rows = sum(batch.num_rows for batch in batches)
                # However many rows there are, the slices come to an end.
                length = max(
                    min(length * slice_rows / max(rows, 1), length * _LARGEST_STEP),
                    _SHORTEST_SLICE,
                )
                while start < window.end and len(fetched) < abreast:
                    ask(length)
                yield from batches
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _slice(self, start: datetime, end: datetime, as_of: datetime) -> list[pa.RecordBatch]:
        """All answers that make up a slice, one after the other, until the source says the end."""
        what = f"[{iso(start)}, {iso(end)})"
        wire, limits = self._api.format, self._transport.limits
        by_offset = "{offset}" in self._api.transactions
        deadline = time.monotonic() + limits.slice_seconds

        def address_at(offset: int) -> str:
            window = {"start": start, "end": end, "as_of": as_of}
            path = _filled(self._api.transactions, format=wire, offset=offset, **window)
            return self._transport.address(path)

        address = address_at(0)
        asked: set[str] = set()
        seen = _Seen(self._contract)
        batches: list[pa.RecordBatch] = []
        rows = empty = size = 0
        stated: tuple[str, int] | None = None
        budget = Budget(limits.slice_bytes)
        while True:
            if address in asked or empty > _EMPTY_PAGES:
                raise self._endless(what)
            if len(asked) == limits.slice_pages:
                raise self._transport.stopped(what, f"is more than {limits.slice_pages:,} pages")
            if time.monotonic() > deadline:
                raise self._transport.too_slow(what, limits.slice_seconds)
            asked.add(address)
            answer = self._answer(address, what, budget)
            size += answer.size
            if size > limits.slice_bytes:
                raise self._transport.stopped(what, f"is longer than {limits.slice_bytes:,} bytes")
            if seen.times(answer.batches) > (1 if by_offset else _TIMES_AT_OTHER_ADDRESSES):
                raise self._endless(what)
            batches += answer.batches
            rows += answer.rows
            stated = answer.stated or stated
            empty = 0 if answer.rows else empty + 1
            if not by_offset:
                address = self._following(answer, address, first=len(asked) == 1)
            else:
                address = address_at(rows) if answer.rows else None
            if address is None:
                self._require_all(answer.more, stated, rows, what)
                _LOG.debug("%s: %d rows, %d bytes, %d answers", what, rows, size, len(asked))
                return batches

    def _answer(self, address: str, what: str, budget: Budget) -> _Answer:
        wire, limits = self._api.format, self._transport.limits
        items, following = self._api.items.split("."), self._api.next.split(".")
        longest = limits.page_bytes if wire == PAGES else limits.slice_bytes
        doubted: list[int] = []

        def read(body: Body) -> _Answer:
            if body.is_empty:
                return _Answer([], None, "null", body.next_link, body.more, body.stated, 0)
            attempt = budget.copy()
            if wire == PAGES:
                read_page = page(body.read(), items, following, attempt, self._contract)
                batches, named, says = [read_page.rows], read_page.following, read_page.says
                more, stated = read_page.more or body.more, read_page.stated or body.stated
            else:
                content = io.BufferedReader(body) if wire == "csv" else body
                batches = list(DECODERS[wire](content, attempt, self._contract))
                named, says, more, stated = None, "nothing", body.more, body.stated
            if body.read(1):
                raise UnreadableError("goes on behind its end")
            doubt = _doubt(wire, body, batches, self._contract)
            if doubt is not None:
                if doubt.never_believed and self._api.totals is None:
                    raise UnreadableError(doubt.fault)
                # Network corruption differs between attempts; corruption in the source repeats.
                doubted.append(sum(map(_digest, batches)))
                if doubted.count(doubted[-1]) < _TIMES_BELIEVED:
                    raise UnreadableError(f"{doubt.fault}, and is not the same each time")
            # A failed attempt gives its share back.
            budget.adopt(attempt)
            return _Answer(batches, named, says, body.next_link, more, stated, body.size)

        return self._transport.get(
            address,
            read,
            what=what,
            most_bytes=min(longest, limits.slice_bytes),
            hint=_NOT_ITS_PAGES if wire == PAGES else _LOOK_AT_ITS_LOG,
        )

    def _following(self, answer: _Answer, address: str, *, first: bool) -> str | None:
        """The address of the answer after one, None behind the last."""
        reference = answer.link
        match answer.says:
            case "text":
                reference = answer.named or answer.link
            case "neither":
                raise UserError(
                    f"{self._transport.url} sends pages whose {self._api.next!r} (TXN_SOURCE_NEXT)"
                    " is neither the text of an address nor null: let the setting name the member"
                    " that has the next page's address",
                    Section.SOURCE_UNUSABLE,
                )
            case "nothing":
                paged = self._api.format == PAGES
                if paged and first and reference is None and self._api.next_absent != "end":
                    raise UserError(
                        f"{self._transport.url} sends pages without {self._api.next!r}"
                        " (TXN_SOURCE_NEXT), so that it is not known whether there are more: let"
                        " the setting name the member that has the next page's address, or set"
                        " TXN_SOURCE_NEXT_ABSENT=end if the source leaves it out on its last page",
                        Section.SOURCE_UNUSABLE,
                    )
            case "null":
                pass
        return None if reference is None else self._transport.followed(address, reference)

    def _require_all(
        self, more: str | None, stated: tuple[str, int] | None, rows: int, what: str
    ) -> None:
        """Refuse rows that the source itself says are not all."""
        remedy = (
            "let TXN_SOURCE_NEXT name the member that has the next page's address, or"
            " TXN_SOURCE_TRANSACTIONS have {offset}"
        )
        if more is not None:
            raise UserError(
                f"{self._transport.url} says that there are more rows, under {shown(more)}, but"
                f" does not say where: {remedy}",
                Section.SOURCE_UNUSABLE,
            )
        # A source with control totals is compared with these.
        if stated is not None and stated[1] > rows and self._api.totals is None:
            raise UserError(
                f"{self._transport.url} says that there are {stated[1]:,} rows, under"
                f" {shown(stated[0])}, and sends {rows:,} of them for {what}: {remedy}",
                Section.SOURCE_UNUSABLE,
            )

    def _endless(self, what: str) -> UserError:
        return UserError(
            f"{self._transport.url} leads in a circle: its pages for {what} come to no end; look"
            " at the address of the next page in its answers, and at TXN_SOURCE_NEXT or {offset}",
            Section.SOURCE_UNUSABLE,
        )

    def _document[T](self, path: str, read: Callable[[Body], T]) -> T:
        def read_some(body: Body) -> T:
            if body.is_empty:
                raise UnreadableError("has no content")
            return read(body)

        return self._transport.get(
            self._transport.address(path),
            read_some,
            what=path.partition("?")[0],
            most_bytes=self._transport.limits.document_bytes,
            hint=_OTHER_SERVICE,
        )


def _json(
    body: Body, members: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None
) -> Any:
    try:
        return json.loads(body.read(), object_pairs_hook=members)
    except UnreadableError:
        raise
    except (ValueError, RecursionError):
        raise UnreadableError("is not JSON") from None


@dataclass(frozen=True)
class _Answer:
    """The answer to one request for rows.

    Attributes:
        batches: the rows.
        named: the address of the next page in its content, if that is a text.
        says: the kind of that member; see `decoding.Page`.
        link: the address of the next page in its headers.
        more: the name of another statement that there is a next page, if any.
        stated: the number of rows of all pages, and the name that states it.
        size: its bytes.
    """

    batches: list[pa.RecordBatch]
    named: str | None
    says: NextPage
    link: str | None
    more: str | None
    stated: tuple[str, int] | None
    size: int

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)


class _Seen:
    """The answers of a slice, to detect one that comes again."""

    def __init__(self, contract: Contract) -> None:
        self._id = contract.id
        # Columns whose values differ from row to row.
        self._telling = [name for name in contract.names if name not in contract.dictionary_encoded]
        self._answers = defaultdict[Any, list[list[pa.RecordBatch]]](list)
        self._beginnings = Counter[Any]()

    def times(self, batches: list[pa.RecordBatch]) -> int:
        """How often an answer had these rows, including this one; remembers them.

        An answer that begins like several others counts as one of them, with rows added since.
        """
        batches = [batch for batch in batches if batch.num_rows]
        if not batches:
            return 0
        rows = [batch.select(self._telling) for batch in batches]
        first = rows[0][self._id][0].as_py()
        if first is None:
            # Rows without ids may differ in any field.
            return self._times((sum(map(_digest, batches)), len(rows)), [])
        self._beginnings[first] += 1
        key = sum(batch.num_rows for batch in rows), first, rows[-1][self._id][-1].as_py()
        times = self._times(key, rows)
        return self._beginnings[first] if self._beginnings[first] > _TIMES_ALIKE else times

    def _times(self, key: Any, rows: list[pa.RecordBatch]) -> int:
        alike = self._answers[key]
        alike.append(rows)
        return alike.count(rows)


@dataclass(frozen=True)
class _Doubt:
    """Why an answer that is complete by HTTP's rules may be cut off or damaged.

    Attributes:
        fault: as the end of a sentence.
        never_believed: repeating it proves nothing; only control totals can.
    """

    fault: str
    never_believed: bool = False


def _doubt(
    wire: str, body: Body, batches: list[pa.RecordBatch], contract: Contract
) -> _Doubt | None:
    fault = _no_row(wire, batches, contract)
    if fault is not None:
        return _Doubt(fault, never_believed=True)
    ended = {"arrow": body.tail == _END_OF_ARROW, "csv": body.tail.endswith(b"\n")}
    if not ended.get(wire, True):
        if not body.is_delimited:
            return _Doubt("has no end by which it can be told to be whole", never_believed=True)
        if _is_unreadable(batches):
            return _Doubt("has a last line that does not end", never_believed=True)
        return _Doubt(f"does not end as {wire} does")
    if wire in {"csv", "ndjson"}:
        extra = (pl.Series(batch.column(EXTRA_FIELDS)) for batch in batches)
        if any(fields.str.starts_with(_MARK).any() for fields in extra):
            return _Doubt(f"has lines that are not {wire}")
    return None


def _is_unreadable(batches: list[pa.RecordBatch]) -> bool:
    """Whether the last row could not be read."""
    if not batches or not batches[-1].num_rows:
        return False
    extra: str | None = batches[-1][EXTRA_FIELDS][-1].as_py()
    return extra is not None and extra.startswith(_MARK)


def _no_row(wire: str, batches: list[pa.RecordBatch], contract: Contract) -> str | None:
    """The fault of an answer that ends in no row, as when a source fails while it sends."""
    some = [batch for batch in batches if batch.num_rows]
    if not some:
        return None
    if not any(_has_values(batch, contract) for batch in some):
        return "has no row with any of the contract's columns"
    last = some[-1].slice(some[-1].num_rows - 1)
    extra: str | None = last[EXTRA_FIELDS][0].as_py()
    if extra is None or _has_values(last, contract):
        return None
    fields: dict[str, str] = json.loads(extra)
    line = fields.get(UNREADABLE, "") if list(fields) == [UNREADABLE] else ""
    tried = line.count(",") + 1 >= len(contract.required) if wire == "csv" else line[:1] == "{"
    return None if tried else "ends in what is no row of the contract"


def _has_values(rows: pa.RecordBatch, contract: Contract) -> bool:
    """Whether one of them has a field that the contract requires."""
    return any(rows[name].null_count < rows.num_rows for name in contract.required)


def _digest(batch: pa.RecordBatch) -> int:
    return int(as_frame(batch).hash_rows().sum() or 0)


def _filled(path: str, **values: datetime | str | int) -> str:
    """A path with its placeholders replaced by quoted values."""
    return path.format_map(
        {
            name: quote(iso(value) if isinstance(value, datetime) else str(value), safe="")
            for name, value in values.items()
        }
    )
