"""The client of the source: a window in, batches of rows as sent out.

All that is known of the source's API is here, so that another source means other settings, or
another module of this shape. What is in the bytes that come is `decoding.py`'s matter; starting a
generator is `defs/resources.py`'s.
"""

from __future__ import annotations

import io
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.columns import as_frame, integers
from txn_platform.contract import LANDED_SCHEMA
from txn_platform.decoding import DECODERS, UNREADABLE, UnreadableError, page
from txn_platform.drift import find_drift
from txn_platform.errors import UserError
from txn_platform.reconciliation import ControlTotals
from txn_platform.transport import AbsentError, Limits, Transport
from txn_platform.windows import Window, iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from txn_platform.drift import Drift
    from txn_platform.settings import Settings
    from txn_platform.transport import Body

# A slice is held in memory until it is whole; in formats that stream, it is the unit of a retry.
_SLICE_ROWS: Final = 1 << 19
_FIRST_SLICE: Final = timedelta(minutes=1)
_SHORTEST_SLICE: Final = timedelta(milliseconds=100)
_LARGEST_STEP: Final = 8
# What a page costs however few its rows are is then little of it.
_PAGE_ROWS: Final = 25_000
# Pages come one after the other, so that of one slice alone both sides would wait in turns; and the
# last slices, which have the source for themselves, had better be short.
_SLICES_OF_PAGES: Final = 3
_SLICE_OF_PAGES_ROWS: Final = 1 << 17
_EMPTY_PAGES: Final = 100
_TIMES_BELIEVED: Final = 3
_END_OF_ARROW: Final = b"\xff\xff\xff\xff\0\0\0\0"
_OTHER_SERVICE: Final = (
    "GENERATOR_URL must name a service with the API of generator_service, or TXN_SOURCE_ settings"
    " say how it is spoken to"
)


@dataclass(frozen=True)
class SourceApi:
    """How a source is spoken to; the defaults are the generator's.

    In the paths, `{start}`, `{end}` and `{as_of}` stand for times (RFC 3339), `{format}` for the
    format, and `{offset}` for the rows had so far; a path with `{offset}` is asked again until a
    page comes empty.

    Attributes:
        format: `arrow`, `csv` or `ndjson` stream a window, `json` gives it in pages.
        transactions: where the rows of a window are.
        items: in a JSON page, the names under which its rows stand, joined by dots.
        next: likewise for the address of the next page.
        totals: where the control totals of a window are; None for a source that states none.
        description: where its OpenAPI description is; None for a source without.
        watermark: where the end of the newest complete hour is; None to go by the clock.
    """

    format: Literal["arrow", "csv", "ndjson", "json"] = "arrow"
    transactions: str = (
        "/v1/transactions?start={start}&end={end}&as_of={as_of}&format={format}&types=text"
    )
    items: str = "data"
    next: str = "next"
    totals: str | None = "/v1/control-totals?start={start}&end={end}&as_of={as_of}"
    description: str | None = "/openapi.json"
    watermark: str | None = "/v1/watermark"


def source_api(settings: Settings) -> SourceApi:
    """How the source that the settings name is spoken to."""
    if settings.source_transactions is None:
        pages = {"transactions": f"{SourceApi.transactions}&limit={_PAGE_ROWS}"}
        return SourceApi(
            format=settings.source_format, **(pages if settings.source_format == "json" else {})
        )
    return SourceApi(
        format=settings.source_format,
        transactions=settings.source_transactions,
        items=settings.source_items,
        next=settings.source_next,
        totals=None,
        description=None,
        watermark=None,
    )


def source_limits(settings: Settings) -> Limits:
    """What the source that the settings name may take."""
    return Limits(
        read_seconds=settings.source_read_seconds,
        whole_seconds=settings.source_whole_seconds,
        attempts=settings.source_attempts,
        slice_bytes=settings.source_max_bytes,
    )


class Source:
    """A generator service, or another source of transactions.

    Every method raises `UserError` when the source can't be reached or refuses.
    """

    def __init__(
        self, url: str, api: SourceApi | None = None, limits: Limits | None = None
    ) -> None:
        """Args: url: where it answers; api: how it is spoken to; limits: what it may take."""
        self._api = api or SourceApi()
        self._transport = Transport(url.rstrip("/"), limits or Limits())

    def watermark(self) -> datetime:
        """The end of the newest window that is complete."""
        if self._api.watermark is None:
            return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

        def read(body: Body) -> datetime:
            answer = _json(body)
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
                f" the source has complete hours up to {iso(watermark)}"
            )
        return watermark

    def control_totals(self, window: Window, as_of: datetime) -> ControlTotals | None:
        """What the source says it has for a window; None when it says nothing of the kind.

        Args:
            window: which.
            as_of: rows that arrived later do not count.
        """
        if self._api.totals is None:
            return None
        path = _filled(self._api.totals, start=window.start, end=window.end, as_of=as_of)

        def read(body: Body) -> ControlTotals:
            try:
                return ControlTotals.parse(body.read())
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
        return find_drift(description, route, self._api.items.split("."), window.end)

    def batches(self, window: Window, as_of: datetime) -> Iterator[pa.RecordBatch]:
        """The rows of a window as sent, in the source's order.

        The window is asked for in slices of time, each tried again by itself when its answer breaks
        off, so that a fault costs a slice and never the window. A slice is as long as the rows of
        the one before it suggest, and is fetched while that is taken.

        Args:
            window: which.
            as_of: rows that arrived later are left out.

        Yields:
            Batches with the columns of `RAW_SCHEMA`, those of `CODED_COLUMNS` as dictionaries.
        """
        position = 0
        for batch in self._slices(window, as_of):
            positions = integers(np.arange(position, position + batch.num_rows))
            yield pa.RecordBatch.from_arrays([positions, *batch.columns], schema=LANDED_SCHEMA)
            position += batch.num_rows

    def _slices(self, window: Window, as_of: datetime) -> Iterator[pa.RecordBatch]:
        abreast, slice_rows = 1, _SLICE_ROWS
        if self._api.format == "json":
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
            # Of a source that is not ours, it is not known whether it knows shorter windows.
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
        ask = self._pages if self._api.format == "json" else self._stream
        return ask(f"[{iso(start)}, {iso(end)})", start=start, end=end, as_of=as_of)

    def _stream(self, what: str, **window: datetime) -> list[pa.RecordBatch]:
        wire = self._api.format
        doubted: list[int] = []

        def read(body: Body) -> list[pa.RecordBatch]:
            content = io.BufferedReader(body) if wire == "csv" else body
            batches = list(DECODERS[wire](content))
            if body.read(1):
                raise UnreadableError("goes on behind its end")
            if _is_doubtful(wire, body.tail, batches):
                # What a network spoils is another thing each time; the source's own is the same.
                doubted.append(sum(map(_digest, batches)))
                if doubted.count(doubted[-1]) < _TIMES_BELIEVED:
                    raise UnreadableError(f"has what is no {wire}, and is not the same each time")
            return batches

        return self._transport.get(
            _filled(self._api.transactions, format=wire, offset=0, **window),
            read,
            what=what,
            most_bytes=self._transport.limits.slice_bytes,
        )

    def _pages(self, what: str, **window: datetime) -> list[pa.RecordBatch]:
        names, next_names = self._api.items.split("."), self._api.next.split(".")
        by_offset = "{offset}" in self._api.transactions

        def read(body: Body) -> tuple[pa.RecordBatch, str | None, int]:
            return *page(body.read(), names, next_names), body.size

        limits = self._transport.limits
        batches: list[pa.RecordBatch] = []
        rows = empty = 0
        left = limits.slice_bytes
        path: str | None = _filled(self._api.transactions, format="json", offset=0, **window)
        asked: set[str] = set()
        while path is not None:
            if path in asked or empty > _EMPTY_PAGES:
                raise self._endless(what)
            asked.add(path)
            batch, following, size = self._transport.get(
                path, read, what=what, most_bytes=limits.page_bytes
            )
            rows += batch.num_rows
            left -= size
            if left < 0:
                raise self._transport.stopped(what, f"is longer than {limits.slice_bytes:,} bytes")
            empty = 0 if batch.num_rows else empty + 1
            if not by_offset:
                path = self._transport.of_this_origin(following) if following else None
            elif batch.num_rows:
                if batches and batch.equals(batches[-1]):
                    raise self._endless(what)
                query = window | {"offset": rows}
                path = _filled(self._api.transactions, format="json", **query)
            else:
                path = None
            batches.append(batch)
        return batches

    def _endless(self, what: str) -> UserError:
        return UserError(
            f"{self._transport.url} leads in a circle: its pages for {what} come to no end; look"
            " at the address of the next page in its answers, and at TXN_SOURCE_NEXT or {offset}"
        )

    def _document[T](self, path: str, read: Callable[[Body], T]) -> T:
        return self._transport.get(
            path,
            read,
            what=path.partition("?")[0],
            most_bytes=self._transport.limits.document_bytes,
            hint=_OTHER_SERVICE,
        )


def _json(body: Body) -> Any:
    try:
        return json.loads(body.read())
    except (ValueError, RecursionError):
        raise UnreadableError("is not JSON") from None


def _is_doubtful(wire: str, tail: bytes, batches: list[pa.RecordBatch]) -> bool:
    """Whether an answer that is whole by HTTP's account may be less, or other, than was sent."""
    match wire:
        case "arrow":
            return tail != _END_OF_ARROW
        case "csv" if not tail.endswith(b"\n"):
            return True
        case _:
            mark = f'{{"{UNREADABLE}":'
            extra = (pl.Series(batch.column("extra_fields")) for batch in batches)
            return any(fields.str.starts_with(mark).any() for fields in extra)


def _digest(batch: pa.RecordBatch) -> int:
    return int(as_frame(batch).hash_rows().sum() or 0)


def _filled(path: str, **values: datetime | str | int) -> str:
    """A path with its places filled in, as a query needs it."""
    return path.format_map(
        {
            name: quote(iso(value) if isinstance(value, datetime) else str(value), safe="")
            for name, value in values.items()
        }
    )
