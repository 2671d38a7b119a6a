"""Errors for answers of the source that cannot be read, and the memory that their rows may need.

The decoders raise these errors, and `transport` turns them into messages for users. Their text ends
a sentence that begins with "its answer".
"""

from __future__ import annotations

from typing import Final

# The least memory of a row: an entry in each of the contract's columns, even if all are null.
ROW_BYTES: Final = 128
MOST_COLUMNS: Final = 1_000
# An answer may always decode to this much, however few bytes were sent.
_ALWAYS_BYTES: Final = 1 << 21


class UnreadableError(ValueError):
    """The answer is cut off or not of its format; a retry may help."""


class RefusedError(UnreadableError):
    """The answer is complete but unusable, and would be the next time.

    The message has the fault and the remedy, separated by a colon.
    """


class TooLargeError(UnreadableError):
    """The answer needs too much memory, and would the next time."""


class Budget:
    """The memory that the rows of a slice may need, once they are decoded.

    Attributes:
        most_bytes: the limit.
        used: how much is used.
    """

    def __init__(self, most_bytes: int = 1 << 30, inflation: int = 100) -> None:
        """Args: inflation: how many times larger than the sent bytes the rows may become."""
        self.most_bytes = most_bytes
        self.used = 0
        self._inflation = inflation
        self._sent = 0

    @property
    def left(self) -> int:
        """How many bytes are not used yet."""
        return self.most_bytes - self.used

    @property
    def longest_value(self) -> int:
        """The limit of one line or value, of which several copies exist at a time."""
        return min(1 << 24, max(1 << 16, self.most_bytes // 8))

    def copy(self) -> Budget:
        """The same budget for one attempt, which may fail."""
        other = Budget(self.most_bytes, self._inflation)
        other.used, other._sent = self.used, self._sent
        return other

    def adopt(self, attempt: Budget) -> None:
        """Count the memory of a copy, whose attempt succeeded."""
        self.used, self._sent = attempt.used, attempt._sent

    def take(self, rows: int, size: int = 0, *, sent: int = 0) -> None:
        """Count memory before it is allocated.

        Args:
            rows: how many rows it holds.
            size: the bytes of their values.
            sent: the bytes that were sent for them.

        Raises:
            TooLargeError: too little is left, or it is out of proportion to the sent bytes.
        """
        self._sent += sent
        self.used += max(size, rows * ROW_BYTES)
        if self.used > self.most_bytes:
            raise TooLargeError(f"decodes to more than {self.most_bytes:,} bytes")
        if self.used > max(_ALWAYS_BYTES, self._inflation * self._sent):
            raise TooLargeError(f"decodes to more than {self._inflation} times its size")
