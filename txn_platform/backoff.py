"""How often a request that fails is made again, after which pauses, and the warning about it.

The transport of the source, the S3 bucket and the Delta table retry with it, and the requests to a
run queue pause as it says. They decide which errors are worth a retry.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from txn_platform.logs import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG: Final = logger(__name__)


@dataclass(frozen=True)
class Backoff:
    """How often a request is made, and how long the pauses between attempts are.

    The nominal pause doubles from one attempt to the next. The actual pause is a random share of
    it, so that clients that failed together do not come back together.

    Attributes:
        attempts: how often one request is made at most.
        first_pause: nominal seconds before the second attempt.
        longest_pause: upper limit of a pause, in seconds.
        jitter: the least and the greatest share of the nominal pause.
    """

    attempts: int
    first_pause: float
    longest_pause: float
    jitter: tuple[float, float] = (0.0, 1.0)

    def pauses(self) -> Iterator[float]:
        """The pauses between the attempts, in seconds: one less than there are attempts."""
        nominal = self.first_pause
        for _ in range(1, self.attempts):
            nominal = min(nominal, self.longest_pause)
            yield min(self.longest_pause, nominal * random.SystemRandom().uniform(*self.jitter))
            nominal *= 2


class Retries:
    """The attempts of one request.

    Attributes:
        attempt: the number of the current attempt, from 1.
    """

    def __init__(self, backoff: Backoff, stop: threading.Event | None = None) -> None:
        """Args: backoff: the budget and the pauses; stop: once it is set, nothing is retried."""
        self.attempt = 1
        self._limit = backoff.attempts
        self._pauses = backoff.pauses()
        self._longest_pause = backoff.longest_pause
        self._stop = stop or threading.Event()
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the first attempt began."""
        return time.monotonic() - self._begun

    def again(self, cause: str, at_least: float = 0.0) -> bool:
        """Log a failed attempt and pause before the next one.

        Args:
            cause: what was asked for, and how the attempt failed; for the log.
            at_least: seconds that the server asks to wait, obeyed up to the longest pause.

        Returns:
            Whether there is another attempt. False, and neither a log line nor a pause, after the
            last one.
        """
        pause = next(self._pauses, None)
        if pause is None or self._stop.is_set():
            return False
        pause = min(self._longest_pause, max(pause, at_least))
        _LOG.warning(
            "%s; attempt %d of %d, trying again in %.1f s", cause, self.attempt, self._limit, pause
        )
        if self._stop.wait(pause):
            return False
        self.attempt += 1
        return True
