"""The client of the source: a window in, batches of rows as sent out.

All that is known of the source's API is here, so that another source means another module of this
shape. What the rows must be like is `contract.py`'s; starting a generator is `defs/resources.py`'s.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import polars as pl
import pyarrow as pa
import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ResponseError

from txn_platform.contract import RAW_SCHEMA, SENT_COLUMNS
from txn_platform.errors import UserError
from txn_platform.reconciliation import ControlTotals
from txn_platform.windows import Window, iso

if TYPE_CHECKING:
    from collections.abc import Iterator

# A slice is the unit of a retry, and is held in memory until it is whole.
_SLICE_ROWS: Final = 1 << 18
_ATTEMPTS: Final = 5
_LONGEST_PAUSE: Final = 10.0
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 60.0


class Source:
    """A generator service, or another source with the same API.

    Every method raises `UserError` when the source can't be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        """Args: url: where it answers, as `http://127.0.0.1:8000`."""
        self._url = url.rstrip("/")
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
        answer = self._json("/v1/watermark")
        try:
            return datetime.fromisoformat(answer["watermark"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError):
            raise self._unexpected("/v1/watermark", "has no time under 'watermark'") from None

    def require_complete(self, window: Window) -> None:
        """Raise a `UserError` when the window is not over yet."""
        watermark = self.watermark()
        if window.end > watermark:
            raise UserError(
                f"partition {window.partition_key} is not complete:"
                f" the source has complete hours up to {iso(watermark)}"
            )

    def control_totals(self, window: Window, as_of: datetime) -> ControlTotals:
        """What the source says it has for a window.

        Args:
            window: which.
            as_of: rows that arrived later do not count.
        """
        path = "/v1/control-totals"
        body = self._get(path, start=iso(window.start), end=iso(window.end), as_of=iso(as_of))
        try:
            return ControlTotals.parse(body.data)
        except ValueError:
            raise self._unexpected(path, "is no statement of control totals") from None

    def batches(self, window: Window, as_of: datetime, rows: int) -> Iterator[pl.DataFrame]:
        """The rows of a window as sent, in the source's order.

        The window is asked for in slices of time, each tried again by itself when its answer breaks
        off, so that a fault costs a slice and never the window.

        Args:
            window: which.
            as_of: rows that arrived later are left out.
            rows: how many there are, by the control totals; decides the number of slices.

        Yields:
            Frames with the columns of `RAW_SCHEMA`.
        """
        slices = max(1, -(-rows // _SLICE_ROWS))
        step = (window.end - window.start) / slices
        bounds = [window.start + step * index for index in range(slices)] + [window.end]
        position = 0
        for start, end in pairwise(bounds):
            for frame in self._slice(start, end, as_of):
                yield _as_raw(frame, position)
                position += frame.height

    def _slice(self, start: datetime, end: datetime, as_of: datetime) -> list[pl.DataFrame]:
        for attempt in range(1, _ATTEMPTS + 1):
            response = self._get(
                "/v1/transactions",
                stream=True,
                start=iso(start),
                end=iso(end),
                as_of=iso(as_of),
                format="arrow",
                types="text",
            )
            try:
                with pa.ipc.open_stream(response) as reader:
                    return [_text_frame(batch) for batch in reader]
            except (HTTPError, OSError, pa.ArrowInvalid) as error:
                if attempt == _ATTEMPTS:
                    raise UserError(
                        f"{self._url} broke off its answer for [{iso(start)}, {iso(end)})"
                        f" {_ATTEMPTS} times ({type(error).__name__}): look at its log"
                    ) from None
                time.sleep(min(_LONGEST_PAUSE, 0.1 * 2**attempt))
            finally:
                response.close()
        raise AssertionError  # the last attempt returns or raises

    def _json(self, path: str) -> Any:
        try:
            return json.loads(self._get(path).data)
        except ValueError:
            raise self._unexpected(path, "is not JSON") from None

    def _get(self, path: str, *, stream: bool = False, **query: str) -> urllib3.BaseHTTPResponse:
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._pool.request(
                "GET", url, preload_content=not stream, decode_content=not stream, redirect=False
            )
        except MaxRetryError as error:
            if isinstance(error.reason, ResponseError):
                raise UserError(
                    f"{self._url} kept answering {path} with errors"
                    f" ({error.reason}): look at its log"
                ) from None
            raise UserError(
                f"no source answers at {self._url}: start it (python -m generator_service),"
                " mend GENERATOR_URL, or unset it to have a generator started for each run"
            ) from None
        except (HTTPError, ValueError) as error:
            raise UserError(f"GENERATOR_URL {self._url} can't be used: {error}") from None
        if response.status != 200:
            detail = _problem_detail(response.data if not stream else response.read())
            response.release_conn()
            raise UserError(f"{self._url} refused {path} with status {response.status}{detail}")
        return response

    def _unexpected(self, path: str, fault: str) -> UserError:
        return UserError(
            f"{self._url}{path} {fault}: GENERATOR_URL must name a service with the API of"
            " generator_service"
        )


def _problem_detail(body: bytes) -> str:
    """What an RFC 9457 problem says, for a message."""
    try:
        return f": {str(json.loads(body)['detail'])[:500]}"
    except (ValueError, KeyError, TypeError):
        return ""


def _text_frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.DataFrame(batch)
    coded = [name for name, dtype in frame.schema.items() if dtype != pl.String]
    return frame.with_columns(pl.col(coded).cast(pl.String)) if coded else frame


def _as_raw(sent: pl.DataFrame, position: int) -> pl.DataFrame:
    """Columns of `RAW_SCHEMA`: absent ones are null, unknown ones are kept together."""
    unknown = [name for name in sent.columns if name not in SENT_COLUMNS]
    extra = pl.struct(unknown).struct.json_encode() if unknown else pl.lit(None, dtype=pl.String)
    return sent.select(
        pl.int_range(position, position + pl.len(), dtype=pl.Int64).alias("position"),
        *(
            pl.col(name) if name in sent.columns else pl.lit(None, dtype=pl.String).alias(name)
            for name in SENT_COLUMNS
        ),
        extra.alias("extra_fields"),
    ).select(RAW_SCHEMA.names)
