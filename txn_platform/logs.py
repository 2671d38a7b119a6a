"""The loggers of the platform: one filter redacts all of their records."""

from __future__ import annotations

import copy
import logging
from typing import override

from txn_platform.redaction import redacted


class RedactingFilter(logging.Filter):
    """Passes each record on as one without secrets and card numbers; see `redaction.redacted`."""

    @override
    def filter(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy of the record, so that no handler has the arguments of the first."""
        copied = copy.copy(record)
        copied.msg, copied.args = redacted(record.getMessage()), None
        if record.exc_info:
            copied.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
            copied.exc_info = None
        return copied


def logger(name: str) -> logging.Logger:
    """The logger of a module of ours, with the filter.

    Filters of a logger do not see the records of those below it, so each has its own.

    Args:
        name: of the module.
    """
    made = logging.getLogger(name)
    if not any(isinstance(each, RedactingFilter) for each in made.filters):
        made.addFilter(RedactingFilter())
    return made
