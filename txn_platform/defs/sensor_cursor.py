"""The sensor's cursor: its state between ticks, as far as Dagster does not record it.

Dagster records publications and the results of runs; see `publications` and `run_history`.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Self, cast

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from txn_platform.errors import UserError
from txn_platform.runbook import Section
from txn_platform.windows import EARLIEST_HOUR, Window

# The largest difference between the clocks that write and read a cursor.
_CLOCKS_DIFFER: Final = timedelta(days=1)
# The longest part of a cursor in a message.
_SHOWN: Final = 200


def _has_been(moment: datetime) -> datetime:
    # A bound or a watermark in the future would silently exclude windows.
    if moment > datetime.now(UTC) + _CLOCKS_DIFFER:
        raise ValueError("it is in the future")
    if moment < EARLIEST_HOUR:
        raise ValueError("it is before 1970")
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
# See `run_history.content_of`; empty if nothing was landed.
_Content = Annotated[str, Field(pattern="^[a-z0-9-]{0,40}$")]


class Asked(BaseModel):
    """A requested run that has not appeared among Dagster's runs yet.

    Attributes:
        content: the digest of the window's content; see `run_history.content_of`.
        attempt: the number of the request for this window.
        at: the time of the request.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: _Content
    attempt: int = Field(ge=1, le=10**8)
    at: _Moment


class Cursor(BaseModel):
    """The state of the sensor.

    Attributes:
        first: the oldest window that it compares. Set when it is turned on.
        watermark: the highest watermark of the source so far.
        next: the window at which the next tick goes on, if the last one ran out of time.
        confirmed: for a source without totals, windows before this one are finished.
        asked: by window, requests whose runs have not appeared yet.
        landed: by window, the digest of the totals in the raw object. It has the windows that an
            earlier version published and that can still change.
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
    def parse(cls, text: str | None, sensor: str = "on_watermark") -> Self | None:
        """Read a cursor, also one of earlier versions; None for a sensor that was just turned on.

        Args:
            text: the cursor.
            sensor: its name, for messages.

        Raises:
            UserError: the text is no cursor, for example because it was edited by hand.
        """
        if not text:
            return None
        try:
            written: Any = json.loads(text)
            if isinstance(written, dict) and "first" not in written:
                # Earlier versions kept the digest of the totals by window.
                oldest = min(cast("dict[str, str]", written))
                written = {"first": oldest, "watermark": EARLIEST_HOUR}
            return cls.model_validate(written)
        except ValidationError as error:
            reason = _first_fault(error)
        except (ValueError, TypeError, RecursionError):
            reason = "it is not what the sensor wrote"
        raise UserError(
            f"the cursor of the sensor {sensor} cannot be read ({reason}): correct it, or clear it"
            f" in Dagster's UI (Automation, {sensor}, Edit cursor); it then looks at the last"
            " TXN_LOOKBACK_HOURS again",
            Section.SETTINGS,
        )

    def to_text(self) -> str:
        """The text that `parse` reads."""
        return self.model_dump_json(exclude_defaults=True)

    @property
    def bound(self) -> Window:
        """The oldest window that the sensor compares."""
        return Window.of_partition(self.first)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False)[0]
    path = ".".join(str(part) for part in fault["loc"]) or "the whole"
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{path[:_SHOWN]}: {reason if len(reason) <= _SHOWN else reason[:_SHOWN] + '...'}"
