"""The faults of a store and the results that the tests expect.

`test_lake_faults.py` runs the cases, and `docs/reliability.md` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass

from txn_platform_tests.support.faulty_store import Fault, Operation

TWICE = 2
FOR_EVER = None

OLD = "one message; the old object is untouched, nothing is left behind"
AT_ONCE = "one message, without a second attempt; the old object is untouched"
NEW = "the new object"
NEW_THOUGH_UNANSWERED = "the new object: the store is asked whether it has it"
ROWS = "the right rows"
UNREAD = "one message"


@dataclass(frozen=True)
class StoreCase:
    """A fault of one kind of request, for a number of times.

    Attributes:
        in_parts: whether the object is larger than one PUT may be.
        operation: the requests.
        fault: their fault.
        times: how many requests fail before the store recovers; None for all.
        expected: the result.
    """

    in_parts: bool
    operation: Operation
    fault: Fault
    times: int | None
    expected: str

    @property
    def id(self) -> str:
        size = "in parts" if self.in_parts else "one PUT"
        often = "for ever" if self.times is FOR_EVER else "twice"
        return f"{self.operation}, {self.fault}, {often}, {size}"

    @property
    def done(self) -> str:
        """The fault, for the page."""
        what = "reading" if self.operation is Operation.GET else "publishing"
        size = "an object in parts" if self.in_parts else "an object by one PUT"
        often = "always" if self.times is FOR_EVER else "twice, then the store recovers"
        return f"{what} {size}: {self.operation} meets {self.fault} {often}"


_PASSING = (
    Fault.TOO_MANY,
    Fault.BROKEN,
    Fault.SLOW_DOWN,
    Fault.RESET,
    Fault.STALL,
    Fault.CUT,
)
_REFUSING = (
    Fault.DENIED,
    Fault.EXPIRED,
    Fault.SKEWED,
    Fault.GONE,
    Fault.NO_LENGTH,
    Fault.UNKNOWN,
)
# HEAD is the same for both. GET of a small object is like GET of a part of a large one.
_OF_ONE_PUT = (Operation.PUT, Operation.HEAD)
_OF_PARTS = (Operation.CREATE, Operation.PART, Operation.COMPLETE, Operation.GET)


def _expected(operation: Operation, fault: Fault, times: int | None) -> str:
    if operation is Operation.GET:
        return ROWS if times else UNREAD
    if times:
        return NEW
    # These requests create the object, and the store has acted on a request whose answer is cut.
    if fault is Fault.CUT and operation in {Operation.PUT, Operation.COMPLETE}:
        return NEW_THOUGH_UNANSWERED
    return OLD


CASES = [
    *(
        StoreCase(in_parts, operation, fault, times, _expected(operation, fault, times))
        for in_parts, operations in ((False, _OF_ONE_PUT), (True, _OF_PARTS))
        for operation in operations
        for fault in _PASSING
        for times in (TWICE, FOR_EVER)
    ),
    *(
        StoreCase(in_parts, operation, fault, FOR_EVER, AT_ONCE)
        for in_parts, operation in ((False, Operation.PUT), (True, Operation.PART))
        for fault in _REFUSING
    ),
]
