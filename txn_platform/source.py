"""The client of the source: a window in, batches of rows as sent out.

All that is known of the source's API is here, so that another source means other settings, or
another module of this shape. What is in the bytes that come is `decoding.py`'s matter; starting a
generator is `defs/resources.py`'s.
"""

from __future__ import annotations

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, cast, overload
from urllib.parse import quote, urljoin, urlsplit

import numpy as np
import pyarrow as pa
import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ResponseError

from txn_platform.contract import LANDED_SCHEMA
from txn_platform.decoding import DECODERS, UnreadableError, address, items
from txn_platform.drift import find_drift
from txn_platform.errors import UserError
from txn_platform.reconciliation import ControlTotals
from txn_platform.windows import Window, iso

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txn_platform.drift import Drift
    from txn_platform.settings import Settings

# A slice is the unit of a retry, and is held in memory until it is whole.
_SLICE_ROWS: Final = 1 << 19
_FIRST_SLICE: Final = timedelta(minutes=1)
_LARGEST_STEP: Final = 8
_PAGE_ROWS: Final = 10_000
_ATTEMPTS: Final = 5
_LONGEST_PAUSE: Final = 10.0
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 60.0


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


class Source:
    """A generator service, or another source of transactions.

    Every method raises `UserError` when the source can't be reached or refuses.
    """

    def __init__(self, url: str, api: SourceApi | None = None) -> None:
        """Args: url: where it answers, as `http://127.0.0.1:8000`; api: how it is spoken to."""
        self._url = url.rstrip("/")
        self._api = api or SourceApi()
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            retries=urllib3.Retry(
                total=_ATTEMPTS,
                backoff_factor=0.1,
                backoff_jitter=0.1,
                backoff_max=_LONGEST_PAUSE,
                status_forcelist=(429, 500, 502, 503, 504),
                redirect=False,
                raise_on_status=True,
            ),
            headers={"User-Agent": "txn_platform"},
        )

    def watermark(self) -> datetime:
        """The end of the newest window that is complete."""
        path = self._api.watermark
        if path is None:
            return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        body = self._get(path).data
        try:
            answer: Any = json.loads(body)
        except ValueError:
            raise self._unexpected(path, "is not JSON") from None
        try:
            return datetime.fromisoformat(answer["watermark"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError):
            raise self._unexpected(path, "has no time under 'watermark'") from None

    def require_complete(self, window: Window) -> None:
        """Raise a `UserError` when the window is not over yet."""
        watermark = self.watermark()
        if window.end > watermark:
            raise UserError(
                f"partition {window.partition_key} is not complete:"
                f" the source has complete hours up to {iso(watermark)}"
            )

    def control_totals(self, window: Window, as_of: datetime) -> ControlTotals | None:
        """What the source says it has for a window; None when it says nothing of the kind.

        Args:
            window: which.
            as_of: rows that arrived later do not count.
        """
        if self._api.totals is None:
            return None
        path = _filled(self._api.totals, start=window.start, end=window.end, as_of=as_of)
        try:
            return ControlTotals.parse(self._get(path).data)
        except ValueError:
            raise self._unexpected(path, "is no statement of control totals") from None

    def drift(self, window: Window) -> list[Drift] | None:
        """How the source's own description of its rows differs from the contract in a window.

        Returns:
            The differences; None for a source that does not describe its rows.
        """
        if self._api.description is None:
            return None
        body = self._get(self._api.description, absent=True)
        if body is None:
            return None
        try:
            description: Any = json.loads(body.data)
        except ValueError:
            raise self._unexpected(self._api.description, "is not JSON") from None
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
            positions = pa.array(np.arange(position, position + batch.num_rows))
            yield pa.RecordBatch.from_arrays([positions, *batch.columns], schema=LANDED_SCHEMA)
            position += batch.num_rows

    def _slices(self, window: Window, as_of: datetime) -> Iterator[pa.RecordBatch]:
        pool = ThreadPoolExecutor(1, "fetch")
        try:
            # Of a source that is not ours, it is not known whether it knows shorter windows.
            length = _FIRST_SLICE if self._api.totals else window.end - window.start
            start = window.start
            end = min(start + length, window.end)
            fetched = pool.submit(self._slice, start, end, as_of)
            while True:
                batches = fetched.result()
                if end == window.end:
                    yield from batches
                    return
                rows = sum(batch.num_rows for batch in batches)
                length = min(length * _SLICE_ROWS / max(rows, 1), length * _LARGEST_STEP)
                start, end = end, min(end + length, window.end)
                fetched = pool.submit(self._slice, start, end, as_of)
                yield from batches
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _slice(self, start: datetime, end: datetime, as_of: datetime) -> list[pa.RecordBatch]:
        ask = self._pages if self._api.format == "json" else self._stream
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return list(ask(start=start, end=end, as_of=as_of))
            except (HTTPError, OSError, UnreadableError) as error:
                if attempt == _ATTEMPTS:
                    raise UserError(
                        f"{self._url} broke off its answer for [{iso(start)}, {iso(end)}), or sent"
                        f" no {self._api.format}, {_ATTEMPTS} times ({type(error).__name__}):"
                        " look at its log"
                    ) from None
                time.sleep(min(_LONGEST_PAUSE, 0.1 * 2**attempt))
        raise AssertionError  # the last attempt returns or raises

    def _stream(self, **window: datetime) -> Iterator[pa.RecordBatch]:
        path = _filled(self._api.transactions, format=self._api.format, offset=0, **window)
        response = self._get(path, stream=True)
        # A reader that looks past the end must find it, not a closed file.
        response.auto_close = False
        try:
            body = response if self._api.format == "arrow" else io.BufferedReader(response)
            yield from DECODERS[self._api.format](body)
        finally:
            response.close()

    def _pages(self, **window: datetime) -> Iterator[pa.RecordBatch]:
        by_offset = "{offset}" in self._api.transactions
        offset = 0
        path: str | None = _filled(self._api.transactions, format="json", offset=0, **window)
        while path is not None:
            page = self._get(path).data
            batch = items(page, self._api.items.split("."))
            yield batch
            offset += batch.num_rows
            if by_offset:
                query = window | {"offset": offset}
                path = _filled(self._api.transactions, format="json", **query)
                path = path if batch.num_rows else None
            else:
                following = address(page, self._api.next.split("."))
                path = self._of_this_origin(following) if following else None

    def _of_this_origin(self, address: str) -> str:
        """The path of an address that the source named, which must be its own."""
        joined = urlsplit(urljoin(f"{self._url}/", address))
        own = urlsplit(self._url)
        if (joined.scheme, joined.netloc) != (own.scheme, own.netloc):
            raise UserError(
                f"{self._url} names a next page at {joined.scheme}://{joined.netloc}: a page of"
                " another origin is not followed"
            )
        return joined._replace(scheme="", netloc="").geturl().removeprefix(own.path)

    @overload
    def _get(self, path: str, *, stream: bool = False) -> urllib3.HTTPResponse: ...
    @overload
    def _get(self, path: str, *, absent: Literal[True]) -> urllib3.HTTPResponse | None: ...
    def _get(
        self, path: str, *, stream: bool = False, absent: bool = False
    ) -> urllib3.HTTPResponse | None:
        """Ask, and have what is not an answer explained; `absent` allows there to be none."""
        url, route = f"{self._url}{path}", path.partition("?")[0]
        try:
            response = cast(
                "urllib3.HTTPResponse",
                self._pool.request("GET", url, preload_content=not stream, redirect=False),
            )
        except MaxRetryError as error:
            if isinstance(error.reason, ResponseError):
                raise UserError(
                    f"{self._url} kept answering {route} with errors"
                    f" ({error.reason}): look at its log"
                ) from None
            raise UserError(
                f"no source answers at {self._url}: start it (python -m generator_service),"
                " mend GENERATOR_URL, or unset it to have a generator started for each run"
            ) from None
        except (HTTPError, ValueError) as error:
            raise UserError(f"GENERATOR_URL {self._url} can't be used: {error}") from None
        if absent and response.status == 404:
            return None
        if response.status != 200:
            detail = _problem_detail(response.data)
            response.release_conn()
            raise UserError(f"{self._url} refused {route} with status {response.status}{detail}")
        return response

    def _unexpected(self, path: str, fault: str) -> UserError:
        return UserError(
            f"{self._url}{path.partition('?')[0]} {fault}: GENERATOR_URL must name a service with"
            " the API of generator_service, or TXN_SOURCE_ settings say how it is spoken to"
        )


def _problem_detail(body: bytes) -> str:
    """What an RFC 9457 problem says, for a message."""
    try:
        return f": {str(json.loads(body)['detail'])[:500]}"
    except (ValueError, KeyError, TypeError):
        return ""


def _filled(path: str, **values: datetime | str | int) -> str:
    """A path with its places filled in, as a query needs it."""
    return path.format_map(
        {
            name: quote(iso(value) if isinstance(value, datetime) else str(value), safe="")
            for name, value in values.items()
        }
    )
