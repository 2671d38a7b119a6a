"""The client of a source: it fetches the rows of a window, as batches.

It knows APIs by a `SourceApi` alone. `decoding` reads the bytes, and `defs/resources` starts a
generator.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter, defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

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
from txn_platform.source.api import address_of
from txn_platform.source.decode_limits import Budget, UnreadableError
from txn_platform.source.decoding import DECODERS, PAGES, UNREADABLE, page
from txn_platform.source.envelope import member_of_before, member_of_more, stated_pages, stated_rows
from txn_platform.source.json_objects import without_repeats
from txn_platform.source.pages import Answered, End, PagesError
from txn_platform.source.requests import Request
from txn_platform.source.transport import GENERATOR_URL, AbsentError, Limits, Transport
from txn_platform.windows import Window, full_hour, iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from txn_platform.contract.drift import Drift
    from txn_platform.contract.model import Contract
    from txn_platform.source.api import SourceApi
    from txn_platform.source.envelope import Stated
    from txn_platform.source.transport import Body

_LOG: Final = logger(__name__)

# A slice is in memory until it is complete. In formats that stream, retries repeat a slice.
_SLICE_ROWS: Final = 1 << 19
_FIRST_SLICE: Final = timedelta(minutes=1)
_SHORTEST_SLICE: Final = timedelta(milliseconds=100)
_LARGEST_STEP: Final = 8
# Pages of a slice come one after the other, so several slices are fetched at once. Short slices
# keep all fetches busy until the end.
_SLICES_OF_PAGES: Final = 3
_SLICE_OF_PAGES_ROWS: Final = 1 << 17
_EMPTY_PAGES: Final = 100
_TIMES_BELIEVED: Final = 3
# Answers that may begin with the same row and still differ.
_TIMES_ALIKE: Final = 4
_END_OF_ARROW: Final = b"\xff\xff\xff\xff\0\0\0\0"
_MARK: Final = f'{{"{UNREADABLE}":'
_LOOK_AT_ITS_LOG: Final = "look at its log"
_NOT_ITS_PAGES: Final = "look at what it sends, and at the items of its SourceApi"


class Source:
    """A source of transactions.

    Every method raises `UserError` when the source can't be reached or refuses.
    """

    def __init__(
        self,
        url: str,
        api: SourceApi,
        limits: Limits | None = None,
        contract: Contract = TRANSACTIONS,
        named_by: str = GENERATOR_URL,
    ) -> None:
        """A source at an address.

        Args:
            url: its address.
            api: its API, with its `lag`.
            limits: on its answers.
            contract: of its rows.
            named_by: the setting that has its address, for messages.
        """
        self._contract = contract
        self._api = api
        self._transport = Transport(url.rstrip("/"), limits or Limits(), api.auth, named_by)
        self._other_service = f"its address must be that of a service with this API: {named_by}" + (
            ", one with that of generator_service" if named_by == GENERATOR_URL else ""
        )

    @property
    def limits(self) -> Limits:
        """The bounds on its answers."""
        return self._transport.limits

    @property
    def states_totals(self) -> bool:
        """Whether it states control totals of its windows."""
        return self._api.totals is not None

    @property
    def lag(self) -> timedelta:
        """How late its rows may arrive."""
        return self._api.lag or timedelta(0)

    def watermark(self) -> datetime:
        """The end of the newest window that is complete."""
        if self._api.watermark is None:
            return full_hour(datetime.now(UTC) - self.lag)

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
        path = self._api.totals_path(window.start, window.end, as_of)
        if path is None:
            return None

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
        items = self._api.path_of_items
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
        limits, pages = self._transport.limits, self._api.style
        deadline = time.monotonic() + limits.slice_seconds
        first = pages.first(self._api.request(self._transport.url, start, end, as_of))
        request = first
        asked: set[Request] = set()
        seen = _Seen(self._contract)
        batches: list[pa.RecordBatch] = []
        rows = empty = size = 0
        stated_rows: Stated | None = None
        stated_pages: Stated | None = None
        previous: dict[str, Any] = {}
        budget = Budget(limits.slice_bytes)
        while True:
            if request in asked or empty > _EMPTY_PAGES:
                raise self._endless(what)
            if len(asked) == limits.slice_pages:
                raise self._transport.stopped(what, f"is more than {limits.slice_pages:,} pages")
            if time.monotonic() > deadline:
                raise self._transport.too_slow(what, limits.slice_seconds)
            asked.add(request)
            answer = self._answer(request, what, budget, is_first=request == first)
            size += answer.size
            if size > limits.slice_bytes:
                raise self._transport.stopped(what, f"is longer than {limits.slice_bytes:,} bytes")
            if seen.times(answer.batches) > pages.most_alike:
                raise self._endless(what)
            batches += answer.batches
            rows += answer.rows
            stated_rows = answer.stated_rows or stated_rows
            stated_pages = answer.stated_pages or stated_pages
            empty = 0 if answer.rows else empty + 1
            following = self._following(
                first, request, answer, previous=previous, answers=len(asked), rows=rows
            )
            previous = answer.envelope
            if isinstance(following, End):
                self._require_no_more(answer, following)
                self._require_all(stated_rows, rows, "rows", what)
                self._require_all(stated_pages, len(asked), "pages", what)
                _LOG.debug("%s: %d rows, %d bytes, %d answers", what, rows, size, len(asked))
                return batches
            request = following

    def _answer(self, request: Request, what: str, budget: Budget, *, is_first: bool) -> _Answer:
        wire, limits = self._api.format, self._transport.limits
        longest = limits.page_bytes if wire == PAGES else limits.slice_bytes
        fields = [name.partition(".")[0] for name in self._api.style.fields]
        doubted: list[int] = []

        def read(body: Body) -> _Answer:
            if body.is_empty:
                return _Answer.of(body, [], {}, None)
            attempt = budget.copy()
            if wire == PAGES:
                items = self._api.path_of_items
                read_page = page(
                    body.read(),
                    items,
                    attempt,
                    self._contract,
                    fields=fields,
                    may_be_absent=self._api.empty == "absent",
                )
                batches = [read_page.rows]
                answer = _Answer.of(body, batches, read_page.envelope, read_page.last_row)
            else:
                content = io.BufferedReader(body) if wire == "csv" else body
                batches = list(DECODERS[wire](content, attempt, self._contract))
                answer = _Answer.of(body, batches, {}, None)
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
            return answer

        # A page that is not found may be one that was asked for in a wrong way.
        also = "" if is_first else f", and at {self._pages}"
        return self._transport.get(
            request,
            read,
            what=what,
            most_bytes=min(longest, limits.slice_bytes),
            hint=f"{_NOT_ITS_PAGES if wire == PAGES else _LOOK_AT_ITS_LOG}{also}",
            refused_hint=f"{_LOOK_AT_ITS_LOG}{also}",
        )

    def _following(
        self,
        first: Request,
        request: Request,
        answer: _Answer,
        *,
        previous: dict[str, Any],
        answers: int,
        rows: int,
    ) -> Request | End:
        """The request after an answer, or the end.

        Raises:
            UserError: the answer does not say it, or names a page of another origin.
        """
        if answer.is_empty and answers == 1 and answer.link is None:
            return End()
        before = member_of_before(answer.envelope) if answers == 1 else None
        if before is not None:
            raise UserError(
                f"{self._transport.url} says of its first page that another comes before it, under"
                f" {shown(before)}: let {self._pages} ask for the first",
                Section.SOURCE_UNUSABLE,
            )
        answered = Answered(
            envelope=answer.envelope,
            previous=previous,
            is_empty=answer.is_empty,
            has_link=answer.has_link,
            link=answer.link,
            answers=answers,
            rows=rows,
            new_rows=answer.rows,
            last_row=answer.last_row,
        )
        try:
            following = self._api.style.following(first, answered)
        except PagesError as error:
            raise UserError(f"{self._transport.url} {error}", Section.SOURCE_UNUSABLE) from None
        return self._page_at(request, following) if isinstance(following, str) else following

    def _page_at(self, request: Request, reference: str) -> Request:
        """The request for a page that another one names."""
        return replace(request, address=self._transport.followed(request.address, reference))

    @property
    def _pages(self) -> str:
        return f"pages={type(self._api.style).__name__}(...) of its SourceApi"

    def _require_no_more(self, answer: _Answer, end: End) -> None:
        """Refuse rows after which the source itself says that there are more."""
        fields = self._api.style.fields
        more = member_of_more(answer.envelope, fields, is_proven=end.is_proven) or answer.more
        if more is not None:
            raise UserError(
                f"{self._transport.url} says that there are more rows, under {shown(more)}, but"
                f" not where: let {self._pages} say how the next page is asked for",
                Section.SOURCE_UNUSABLE,
            )

    def _require_all(self, stated: Stated | None, count: int, unit: str, what: str) -> None:
        """Refuse fewer rows or pages than the source states."""
        # A source with control totals is compared with these.
        if stated is not None and stated[1] > count and self._api.totals is None:
            raise UserError(
                f"{self._transport.url} says that there are {stated[1]:,} {unit}, under"
                f" {shown(stated[0])}, and sends {count:,} of them for {what}: look at"
                f" {self._pages}",
                Section.SOURCE_UNUSABLE,
            )

    def _endless(self, what: str) -> UserError:
        return UserError(
            f"{self._transport.url} leads in a circle: its pages for {what} come to no end, or one"
            f" comes again; look at what asks for the next page in its answers, and at"
            f" {self._pages}",
            Section.SOURCE_UNUSABLE,
        )

    def _document[T](self, path: str, read: Callable[[Body], T]) -> T:
        def read_some(body: Body) -> T:
            if body.is_empty:
                raise UnreadableError("has no content")
            return read(body)

        return self._transport.get(
            Request(address_of(self._transport.url, path)),
            read_some,
            what=path.partition("?")[0],
            most_bytes=self._transport.limits.document_bytes,
            hint=self._other_service,
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
        envelope: see `decoding.Page`.
        last_row: the last row as sent, of a JSON page.
        is_empty: whether its status says that it has no content (204).
        has_link: whether it has a Link header.
        link: the address of the next page in that header.
        more: the name of another header that states that there is a next page, if any.
        stated_rows: the number of rows of all pages, and the name that states it.
        stated_pages: the number of pages, likewise.
        size: its bytes.
    """

    batches: list[pa.RecordBatch]
    envelope: dict[str, Any]
    last_row: bytes | None
    is_empty: bool
    has_link: bool
    link: str | None
    more: str | None
    stated_rows: Stated | None
    stated_pages: Stated | None
    size: int

    @classmethod
    def of(
        cls,
        body: Body,
        batches: list[pa.RecordBatch],
        envelope: dict[str, Any],
        last_row: bytes | None,
    ) -> _Answer:
        """The answer in a body and its headers."""
        return cls(
            batches=batches,
            envelope=envelope,
            last_row=last_row,
            is_empty=body.is_empty,
            has_link=body.has_link,
            link=body.next_link,
            more=body.more,
            stated_rows=stated_rows(envelope) or body.stated_rows,
            stated_pages=stated_pages(envelope) or body.stated_pages,
            size=body.size,
        )

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
