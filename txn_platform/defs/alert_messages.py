"""The messages about alerts, and their delivery, oldest first.

`alerts` decides what is told. `webhook` sends it.
"""

import time
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from txn_platform import runbook
from txn_platform.defs import checks
from txn_platform.defs.alert_cursor import AlertCursor, Owed
from txn_platform.webhook import Message, Webhook

# Subjects of alerts that are about no run.
LAKE: Final = "lake"
SOURCE: Final = "source"

# The most messages of one kind in a row that are sent one by one.
_MOST_ALONE: Final = 5
_MOST_NAMED: Final = 20
_MOST_REFUSED: Final = 2
# How a title ends, when something broke and when it is right again.
_ENDINGS: Final = {
    LAKE: ("is behind its source", "is up to date again"),
    SOURCE: ("has not answered for a while", "answers again"),
}
_ENDING: Final = ("failed", "is right again")


def deliver(cursor: AlertCursor, webhook: Webhook, ui_url: str, deadline: float) -> list[str]:
    """Deliver what is owed, oldest first; what is not delivered stays owed.

    Many messages of one kind in a row become one. A message waits for those before it that are
    about the same alert.

    Args:
        cursor: has the messages.
        webhook: that takes them.
        ui_url: the address of Dagster's UI.
        deadline: no delivery but the first begins after it, by the monotonic clock.

    Returns:
        Why deliveries failed, each as a sentence.
    """
    problems: list[str] = []
    left: list[Owed] = []
    waiting: set[tuple[str, str]] = set()
    number = 0
    for messages in _together(cursor.owed):
        keys = {owed.alert.key for owed in messages}
        late = number > 0 and time.monotonic() > deadline
        if not (late or keys & waiting or len(problems) >= _MOST_REFUSED):
            number += 1
            message = _message(messages, ui_url)
            problem = webhook.deliver(message)
            if problem is None:
                continue
            problems.append(f"{message.title!r} could not be delivered: {problem}")
        left += messages
        waiting |= keys
    cursor.owed = left
    return problems


def _together(owed: list[Owed]) -> Iterator[list[Owed]]:
    """The messages to send: one by one, or as one if there are many of a kind in a row."""
    for _, group in groupby(owed, key=lambda each: (each.right, each.alert.cause)):
        messages = list(group)
        if len(messages) > _MOST_ALONE:
            yield messages
        else:
            yield from ([message] for message in messages)


def _message(messages: list[Owed], ui_url: str) -> Message:
    first = messages[0]
    alert = first.alert
    named = ", ".join(owed.alert.subject for owed in messages[:_MOST_NAMED])
    if len(messages) > _MOST_NAMED:
        named += f" and {len(messages) - _MOST_NAMED:,} more"
    if len(messages) > 1:
        title = f"{len(messages):,} {'are right again' if first.right else 'failures'}"
    else:
        title = f"{named} {_ENDINGS.get(alert.subject, _ENDING)[first.right]}"
    page = f"runs/{first.run_id}" if first.run_id else f"assets/{checks.PUBLISHED}"
    link, section = f"{ui_url}/{page}", runbook.place(alert.section)
    state = "right" if first.right else "broken"
    return Message(
        title=f"{title}: {alert.cause}",
        text="\n".join([first.reason, f"About: {named}", f"Link: {link}", f"Runbook: {section}"]),
        good=first.right,
        fields={
            # The same again if the receiver took a message and its answer was lost.
            "id": "/".join([alert.subject, alert.cause, alert.at.isoformat(), state]),
            "state": state,
            "subject": named,
            "cause": alert.cause,
            "reason": first.reason,
            "link": link,
            "runbook": section,
        },
    )
