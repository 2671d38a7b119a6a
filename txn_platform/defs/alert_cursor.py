"""The cursor of the sensor `alerts`: what is wrong, what is to be told, and how far it came."""

from datetime import datetime
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from txn_platform.errors import UserError
from txn_platform.runbook import Section


class Alert(BaseModel):
    """Something that is wrong. There is one for each subject and cause.

    Attributes:
        subject: the window, or whatever else is wrong, such as `lake` or the name of a job.
        cause: the name of the failed check, or the anchor of the runbook's section.
        section: the anchor of the runbook's section on it.
        step: the step that failed; empty if there was none.
        job: the job of the run that failed; empty without a run.
        run_id: the newest run that failed for it; empty without a run.
        at: when that run ended, or when it was noticed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str
    cause: str
    section: str
    step: str = ""
    job: str = ""
    run_id: str = ""
    at: AwareDatetime

    @property
    def key(self) -> tuple[str, str]:
        """Alerts with the same key are one, however often it fails."""
        return self.subject, self.cause


class Owed(BaseModel):
    """A message that has not been delivered yet.

    Attributes:
        alert: that it is about.
        right: whether it says that all is right again; otherwise, that something broke.
        reason: why, in a sentence.
        run_id: the run that shows it; empty without one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alert: Alert
    right: bool
    reason: str
    run_id: str = ""


class AlertCursor(BaseModel):
    """The state of the sensor between ticks.

    Attributes:
        since: runs that were updated before this moment have been looked at.
        seen: when each run that was looked at ended. It has the runs that a tick finds again.
        open: what is wrong.
        owed: messages to deliver, the oldest first.
        fresh: whether the lake was fresh at the last tick; None before the first look.
        unanswered_since: since when freshness is not known; None if it is.
    """

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime
    seen: dict[str, AwareDatetime] = {}
    open: list[Alert] = []
    owed: list[Owed] = []
    fresh: bool | None = None
    unanswered_since: AwareDatetime | None = None

    @classmethod
    def parse(cls, text: str | None, start: datetime) -> Self:
        """Read a cursor; a sensor that was just turned on begins at `start`.

        Raises:
            UserError: the text is no cursor, for example because it was edited by hand.
        """
        if not text:
            return cls(since=start)
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise UserError(
                "the cursor of the sensor alerts cannot be read: clear it in Dagster's UI"
                " (Automation, alerts, Edit cursor); it then looks at the runs of the last"
                " TXN_LOOKBACK_HOURS again",
                Section.SETTINGS,
            ) from None

    def to_text(self) -> str:
        """The text that `parse` reads."""
        return self.model_dump_json(exclude_defaults=True)
