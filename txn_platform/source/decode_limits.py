"""Errors for answers of the source that cannot be read, and the memory that their rows may need.

The decoders raise these errors, and `transport` turns them into messages for users. Their text ends
a sentence that begins with "its answer".
"""

from __future__ import annotations

from typing import Final

# A row takes this much at least: a place in each of the contract's columns, even when all are null.
ROW_BYTES: Final = 128
MOST_COLUMNS: Final = 1_000
# So much an answer may always become, however few bytes were sent.
_ALWAYS_BYTES: Final = 1 << 21


class UnreadableError(ValueError):
    """The answer breaks off, or is not of its format; it may be asked for again."""


class RefusedError(UnreadableError):
    """The answer is whole, but not what can be taken, however often it is asked for.

    Says what is wrong and what to do about it, separated by a colon.
    """


class TooLargeError(UnreadableError):
    """The answer needs more memory than it may, and would the next time."""


class Budget:
    """The memory that the rows of a slice may need, once they are decoded.

    Attributes:
        most_bytes: how much in all.
        taken: how much of it is taken.
    """

    def __init__(self, most_bytes: int = 1 << 30, inflation: int = 100) -> None:
        """Args: inflation: how many times larger than what was sent the rows may become."""
        self.most_bytes = most_bytes
        self.taken = 0
        self._inflation = inflation
        self._sent = 0

    @property
    def left(self) -> int:
        """How many bytes are not taken yet."""
        return self.most_bytes - self.taken

    @property
    def longest_value(self) -> int:
        """How long one line, or one value, may be: several copies of it exist at a time."""
        return min(1 << 24, max(1 << 16, self.most_bytes // 8))

    def copy(self) -> Budget:
        """The same budget for one attempt, which may fail."""
        other = Budget(self.most_bytes, self._inflation)
        other.taken, other._sent = self.taken, self._sent
        return other

    def adopt(self, attempt: Budget) -> None:
        """Take what a copy has taken: its attempt did not fail."""
        self.taken, self._sent = attempt.taken, attempt._sent

    def take(self, rows: int, size: int = 0, *, sent: int = 0) -> None:
        """Take memory before it is used.

        Args:
            rows: how many rows it holds.
            size: how many bytes their values have.
            sent: with how many bytes they were sent.

        Raises:
            TooLargeError: there is not so much left, or it is out of proportion to what was sent.
        """
        self._sent += sent
        self.taken += max(size, rows * ROW_BYTES)
        if self.taken > self.most_bytes:
            raise TooLargeError(f"decodes to more than {self.most_bytes:,} bytes")
        if self.taken > max(_ALWAYS_BYTES, self._inflation * self._sent):
            raise TooLargeError(f"decodes to more than {self._inflation} times its size")
