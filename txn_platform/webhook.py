"""Messages to the webhook that `TXN_ALERT_WEBHOOK` names, through `apprise`.

The address is a secret: no message and no log line shows it. When to send which message is decided
in `defs/alerts`.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from txn_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from txn_platform.settings import Settings

# As apprise's plugins write the status of an answer into their log.
_STATUS = re.compile(r"error=(\d{3})\b")


@dataclass(frozen=True)
class Message:
    """A message to a webhook.

    Attributes:
        title: one line.
        text: the rest, on several lines.
        good: whether it says that something is right again.
        fields: the same in parts, for receivers of JSON; they come beside `title` and `message`.
    """

    title: str
    text: str
    good: bool
    fields: Mapping[str, str] = field(default_factory=dict[str, str])


class Webhook:
    """The receiver of messages.

    Args:
        address: a webhook of a service that apprise knows by its address, any address of apprise's
            own (`slack://...`), or the http(s) address of a server that takes JSON.

    Raises:
        UserError: apprise is not installed, or cannot use the address.
    """

    def __init__(self, address: str) -> None:
        try:
            from apprise import Apprise
        except ImportError:
            raise UserError(
                "TXN_ALERT_WEBHOOK is set, but the package apprise is not installed: install"
                " txn-platform with its extra `alerts` (pip install 'txn-platform[alerts]')"
            ) from None
        with _apprise_logs():
            service = Apprise.instantiate(address)
            if service is None and (parts := _takes_json(address)) is not None:
                service = Apprise.instantiate(parts)
        if service is None:
            raise UserError(
                "TXN_ALERT_WEBHOOK cannot be used: apprise finds no service in it; copy the"
                " webhook's address again, or write it as https://appriseit.com explains"
            )
        self._service: Any = service

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """The webhook that the settings name; None if they name none.

        Raises:
            UserError: it cannot be used.
        """
        address = settings.alert_webhook
        return None if address is None else cls(address.get_secret_value())

    @property
    def service(self) -> str:
        """The name of the service, such as `Slack` or `JSON`."""
        return str(self._service.service_name)

    def deliver(self, message: Message) -> str | None:
        """Send a message, within about ten seconds.

        Returns:
            None if the receiver took it; otherwise why not, as the end of a sentence.
        """
        from apprise import Apprise, NotifyFormat, NotifyType

        # Services that take JSON, XML or a form add these fields to each message.
        extras = getattr(self._service, "payload_extras", None)
        if isinstance(extras, dict):
            self._service.payload_extras = {**message.fields, **extras}
        receiver = Apprise()
        receiver.add(self._service)
        try:
            with _apprise_logs() as lines:
                was_accepted = receiver.notify(
                    title=message.title,
                    body=message.text,
                    notify_type=NotifyType.SUCCESS if message.good else NotifyType.FAILURE,
                    body_format=NotifyFormat.TEXT,
                )
        except Exception as error:  # whatever one of apprise's many plugins raises
            # Its message can show the address.
            return f"apprise raised {type(error).__name__}"
        finally:
            if isinstance(extras, dict):
                self._service.payload_extras = extras
        if was_accepted:
            return None
        statuses = [found[1] for line in lines if (found := _STATUS.search(line))]
        return f"it answered with status {statuses[-1]}" if statuses else "it did not answer"


def _takes_json(address: str) -> dict[str, Any] | None:
    """An http(s) address in the parts that apprise builds its service for JSON from."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not host:
        return None
    return {
        "schema": "jsons" if parts.scheme == "https" else "json",
        "secure": parts.scheme == "https",
        "host": f"[{host}]" if ":" in host else host,
        "port": port,
        "user": parts.username,
        "password": parts.password,
        "fullpath": f"{parts.path}?{parts.query}" if parts.query else parts.path,
        # A POST that is redirected becomes a GET without the message.
        "redirect": "no",
    }


@contextmanager
def _apprise_logs() -> Generator[list[str]]:
    """Keep the log of apprise in the block to this list: its lines can show an address."""
    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return False

    logger = logging.getLogger("apprise")
    logger.addFilter(keep)
    try:
        yield lines
    finally:
        logger.removeFilter(keep)
