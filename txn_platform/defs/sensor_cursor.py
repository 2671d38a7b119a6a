"""The sensor's cursor: what it must remember from tick to tick that Dagster does not record.

Dagster's instance says what is published and how runs ended; see `publications` and
`run_history`.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Self, cast

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from txn_platform.errors import UserError
from txn_platform.windows import FIRST_WINDOW_START, Window

# How far the clock that wrote a cursor may be ahead of the one that reads it.
_CLOCKS_DIFFER: Final = timedelta(days=1)
# More than any message needs to show of a cursor.
_SHOWN: Final = 200


def _has_been(moment: datetime) -> datetime:
    # With a bound or a watermark of the future, windows would be left alone without a word.
    if moment > datetime.now(UTC) + _CLOCKS_DIFFER:
        raise ValueError("it is in the future")
    if moment < FIRST_WINDOW_START:
        raise ValueError("it is before the first window")
    return moment.astimezone(UTC)


def _is_partition(key: str) -> str:
    try:
        window = Window.of_partition(key)
    except UserError as error:
        raise ValueError(str(error)) from None
    _has_been(window.start)
    return window.partition_key


_Partition = Annotated[str, AfterValidator(_is_partition)]
_Moment = Annotated[AwareDatetime, AfterValidator(_has_been)]
# See `run_history.content_of`; empty where nothing was landed.
_Content = Annotated[str, Field(pattern="^[a-z0-9-]{0,40}$")]


class Asked(BaseModel):
    """A run that was requested and is not yet seen among Dagster's runs.

    Attributes:
        content: the digest of what the source had for the window; see `run_history.content_of`.
        attempt: which request for this window it was.
        at: when.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: _Content
    attempt: int = Field(ge=1, le=10**8)
    at: _Moment


class Cursor(BaseModel):
    """The memory of the sensor.

    Attributes:
        first: the lower bound: the oldest window that it cares for. Set when it is turned on.
        watermark: the highest watermark of the source so far.
        next: where the next tick goes on, because the last one ran out of time.
        confirmed: of a source without totals, windows before this one are done for good.
        asked: by window, requests whose runs were not seen yet.
        landed: by window, the digest of the totals in the raw object, of windows that an earlier
            version published and that can still change.
    """

    model_config = ConfigDict(extra="forbid")

    first: _Partition
    watermark: _Moment
    next: _Partition | None = None
    confirmed: _Partition | None = None
    asked: dict[_Partition, Asked] = {}
    landed: dict[_Partition, _Content] = {}

    @classmethod
    def starting(cls, first: Window, watermark: datetime) -> Self:
        """The cursor of a sensor that was just turned on."""
        return cls(first=first.partition_key, watermark=watermark)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read a cursor, also one of earlier versions; None for a sensor that was just turned on.

        Raises:
            UserError: it is none, for example because it was edited by hand.
        """
        if not text:
            return None
        try:
            written: Any = json.loads(text)
            if isinstance(written, dict) and "first" not in written:
                # Earlier versions had the digest of the totals by window.
                oldest = min(cast("dict[str, str]", written))
                written = {"first": oldest, "watermark": FIRST_WINDOW_START}
            return cls.model_validate(written)
        except ValidationError as error:
            reason = _first_fault(error)
        except (ValueError, TypeError, RecursionError):
            reason = "it is not what the sensor wrote"
        raise UserError(
            f"the cursor of the sensor on_watermark cannot be read ({reason}): correct it, or"
            " clear it in Dagster's UI (Automation, on_watermark, Edit cursor); it then looks at"
            " the last TXN_LOOKBACK_HOURS again"
        )

    def to_text(self) -> str:
        """The text that `parse` reads."""
        return self.model_dump_json(exclude_defaults=True)

    @property
    def bound(self) -> Window:
        """The oldest window that the sensor cares for."""
        return Window.of_partition(self.first)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the whole"
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{place[:_SHOWN]}: {reason if len(reason) <= _SHOWN else reason[:_SHOWN] + '...'}"
