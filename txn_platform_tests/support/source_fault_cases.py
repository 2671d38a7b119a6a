"""The faults of a source and the results that the tests expect: tables, no code.

`test_source_faults.py` runs the faults of the transport in every format, `test_source_hostile.py`
the hostile sources. `docs/reliability.md` lists all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

type Wire = Literal["arrow", "csv", "ndjson", "json"]

WIRES: Final[tuple[Wire, ...]] = ("arrow", "csv", "ndjson", "json")

RIGHT_ROWS: Final = "the right rows are landed"


@dataclass(frozen=True)
class FaultCase:
    """A fault of the transport, in a format.

    Attributes:
        id: its name, also for pytest.
        done: the fault, for the page.
        expected: the result.
        wire: the format.
        faults: the fault, as GENERATOR_FAULTS states it.
        message: a part of the one message; None when the right rows must be landed.
        everywhere: whether every answer has the fault, and not only those with rows.
    """

    id: str
    done: str
    expected: str
    wire: Wire
    faults: str
    message: str | None
    everywhere: bool = False


@dataclass(frozen=True)
class HostileCase:
    """A hostile source, or one that is broken beyond a fault.

    Attributes:
        id: its name, also for pytest; selects the answer of the tests' server.
        done: the behaviour, for the page.
        message: a part of the one message, a regular expression.
        wire: the format that is requested.
    """

    id: str
    done: str
    message: str
    wire: Wire = "ndjson"

    @property
    def expected(self) -> str:
        """The result."""
        plain = self.message.replace("\\", "")
        return f"one message, “… {plain} …”, in bounded time and memory"


@dataclass(frozen=True)
class _Kind:
    id: str
    faults: str
    done: str
    message: str | dict[Wire, str]


_KINDS: Final = (
    _Kind("429", "status=429,retry_after=1", "has status 429 with a Retry-After", "had status 429"),
    _Kind("500", "status=500", "has status 500", "had status 500"),
    _Kind("503", "status=503", "has status 503", "had status 503"),
    _Kind("reset", "reset=2000", "is reset after 2,000 bytes", "broke off"),
    _Kind("stall", "stall=2000", "stops after 2,000 bytes, without an end", "stalled for"),
    _Kind("cut", "cut=2000", "is cut after 2,000 bytes", "broke off"),
    _Kind(
        "longer",
        "length=100",
        "is 100 bytes shorter than its Content-Length",
        "broke off",
    ),
    _Kind(
        "shorter",
        "length=-100",
        "is 100 bytes longer than its Content-Length",
        {
            "arrow": "is no whole Arrow stream of text",
            # A line that is too short in the same way each time passes for a row of the source.
            "csv": "totals_equal_source",
            "ndjson": "has a last line that does not end",
            "json": "is no JSON with a list under 'data'",
        },
    ),
    _Kind(
        "garbage",
        "garbage=2000",
        "has 64 bytes of garbage in it, different each time",
        {
            "arrow": "is no whole Arrow stream of text",
            "csv": "is no CSV in UTF-8",
            "ndjson": "has lines that are not ndjson, and is not the same each time",
            "json": "is no JSON with a list under 'data'",
        },
    ),
)


def _first(faults: str) -> str:
    fault, comma, rest = faults.partition(",")
    return f"{fault}:first2{comma}{rest}"


def _twice(kind: _Kind, wire: Wire) -> FaultCase:
    done = f"each answer with rows {kind.done}, the first two times"
    return FaultCase(f"{kind.id}-{wire}-twice", done, RIGHT_ROWS, wire, _first(kind.faults), None)


def _always(kind: _Kind, wire: Wire) -> FaultCase:
    message = kind.message if isinstance(kind.message, str) else kind.message[wire]
    expected = f"one message, “… {message} …”; the lake is as it was"
    done = f"each answer with rows {kind.done}, always"
    return FaultCase(f"{kind.id}-{wire}-always", done, expected, wire, kind.faults, message)


def _everywhere(kind: _Kind) -> FaultCase:
    faults = _first(kind.faults.replace("2000", "30"))
    done = f"every answer {kind.done.replace('2,000', '30')}, the first two times"
    return FaultCase(f"{kind.id}-all-twice", done, RIGHT_ROWS, "arrow", faults, None, True)


FAULT_CASES: Final = (
    *(_twice(kind, wire) for kind, wire in product(_KINDS, WIRES)),
    *(_always(kind, wire) for kind, wire in product(_KINDS, WIRES)),
    *(_everywhere(kind) for kind in _KINDS),
)


HOSTILE_CASES: Final = (
    HostileCase("bomb-rows", "sends rows that inflate 1,000 times", "inflates more than 100 times"),
    HostileCase(
        "bomb-arrow",
        "the same, where Arrow is requested",
        "has text where an Arrow message should be",
        "arrow",
    ),
    HostileCase(
        "bomb-csv", "the same, where CSV is requested", "inflates more than 100 times", "csv"
    ),
    HostileCase("bomb-page", "the same, in a page", "inflates more than 100 times", "json"),
    HostileCase(
        "endless-nothing", "sends empty gzip members without end", "is longer than 131,072 bytes"
    ),
    HostileCase(
        "endless-offset",
        "sends two pages in turns, whatever the offset",
        "leads in a circle",
        "json",
    ),
    HostileCase("endless-line", "sends a line without end", "has a line longer than 16,777,216"),
    HostileCase(
        "endless-csv-line",
        "sends a CSV line without end",
        "has a line longer than 4,194,304",
        "csv",
    ),
    HostileCase(
        "endless-csv-field",
        "opens a quote in CSV and never closes it",
        "has a line longer than 4,194,304",
        "csv",
    ),
    HostileCase(
        "endless-csv-header",
        "sends a CSV header without end",
        "has a header line that does not end",
        "csv",
    ),
    HostileCase(
        "endless-page", "sends a page without end", "is longer than 67,108,864 bytes", "json"
    ),
    HostileCase("endless-rows", "sends good rows without end", "is longer than 131,072 bytes"),
    HostileCase(
        "endless-document",
        "answers for the control totals without end",
        "answer for /v1/control-totals is longer than 1,048,576 bytes",
    ),
    HostileCase("endless-head", "sends header lines without end", "the last broke off"),
    HostileCase("tiny-chunks", "sends one byte a chunk", "is longer than 131,072 bytes"),
    HostileCase("chunk-of-a-terabyte", "announces a chunk of 1 TB", "the last broke off"),
    HostileCase(
        "huge-message",
        "announces an Arrow message of 2 GB and sends it",
        "has a message of 2,147,483,",
        "arrow",
    ),
    HostileCase("drip-body", "sends a byte of the body at a time", "took longer than 0.5 s"),
    HostileCase(
        "drip-arrow", "the same, where Arrow is requested", "took longer than 0.5 s", "arrow"
    ),
    HostileCase("drip-page", "the same, in a page", "took longer than 0.5 s", "json"),
    HostileCase("drip-head", "sends a byte of its headers at a time", "took longer than 0.5 s"),
    HostileCase("drip-chunk", "sends a byte of a chunk's length at a time", "took longer than 0.5"),
    HostileCase("silence", "takes the request and never answers", "the last stalled for 0.2 s"),
    HostileCase("hang-up", "closes the connection without an answer", "the last broke off"),
    HostileCase("no-http", "answers with bytes that are not HTTP", "the last broke off"),
    HostileCase(
        "no-gzip", "declares gzip and sends plain text", "the last is not compressed as it says"
    ),
    HostileCase(
        "redirect", "redirects to another origin", "with status 302, a redirect: none is followed"
    ),
    HostileCase(
        "redirect-home", "redirects to itself", "with status 307, a redirect: none is followed"
    ),
    HostileCase(
        "next-elsewhere",
        "names a next page of another host",
        r"next page at http://127\.0\.0\.2:9: a page of another origin is not followed",
        "json",
    ),
    HostileCase(
        "next-scheme-relative",
        "names one as `//host`",
        r"next page at http://127\.0\.0\.2: a page of another origin is not followed",
        "json",
    ),
    HostileCase(
        "next-look-alike",
        "names one that begins with its own address",
        # It has the form of a name and a password, which no message shows.
        "names a next page at http://…: a page of another origin is not followed",
        "json",
    ),
    HostileCase("next-file", "names a file", "a page of another origin is not followed", "json"),
    HostileCase(
        "next-nonsense", "names a next page that is no address", "that is no address", "json"
    ),
    HostileCase("next-itself", "names the same page again", "leads in a circle", "json"),
    HostileCase("next-circle", "names the page before", "leads in a circle", "json"),
    HostileCase("next-empty", "names empty pages without end", "leads in a circle", "json"),
    HostileCase(
        "next-endless",
        "names pages with rows without end",
        "is longer than 131,072 bytes",
        "json",
    ),
    HostileCase(
        "forbidden-endless",
        "refuses with an endless text",
        r"with status 422 \(no media type, more than 65,536 bytes\): look at its log",
    ),
    HostileCase(
        "detail",
        "refuses with control characters and 50 kB of text",
        r"with status 422 \(no media type, 50,034 bytes\): look at its log",
    ),
    HostileCase(
        "deep", "sends JSON nested 100,000 deep", r"the last is no JSON with a list", "json"
    ),
)
