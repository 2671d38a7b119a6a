"""Bytes that a source or a user may send, valid or with faults, and the code that reads them.

Each input is made from a target's name, a seed and a number alone, so that one that fails can be
repeated: `python -m txn_platform_tests.support.fuzzing TARGET SEED NUMBER`.
"""

from __future__ import annotations

import faulthandler
import io
import json
import math
import os
import random
import re
import sys
import time
import traceback
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, override

import pyarrow as pa

from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.rows.duplicates import RepeatedIds
from txn_platform.rows.reason_tally import ReasonTally
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.validation import NO_REPEATS, Validator
from txn_platform.settings import load_settings
from txn_platform.source import transport
from txn_platform.source.client import Source
from txn_platform.source.content_coding import codings_in
from txn_platform.source.decode_limits import Budget, RefusedError, UnreadableError
from txn_platform.source.decoding import DECODERS, page
from txn_platform.source.generator import GENERATOR, open_source
from txn_platform.source.transport import Limits, Transport
from txn_platform.windows import Window
from txn_platform_tests.support.served_source import sent_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from txn_platform.source.requests import Request
    from txn_platform.source.transport import Body

MOST_SECONDS: Final = 2.0
MOST_GROWTH: Final = 200 << 20
# Every card key begins with it.
_SECRET: Final = "zQ9-secret"
_MOST_BYTES: Final = 32 << 20
_WINDOW: Final = Window(datetime(2026, 11, 1, tzinfo=UTC))
# Every input has it, and no message may show it.
_CARD: Final = "4111111111111111"
_SHOWS_CARD: Final = re.compile(r"4111\D?1111\D?1111\D?1111")
_ROWS: Final = [sent_row(number, loyalty="gold") for number in range(4)]

# Bytes that parsers often fail on.
_TOKENS: Final = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n",
    b'"', b'""', b"'", b",", b":", b"{", b"}", b"[", b"]", b"\\", b"\\u0000", b"\\ud800", b"[/x]",
    b"null", b"true", b"NaN", b"-Infinity", b"1e999999999", b"-0", b"1e30", b"9" * 400, b"[" * 300,
    b'{"a":' * 300, b"amount", b'"amo\\u0075nt":1,', b"\x00\x01" * 50, b"x" * 5_000, b"%", b"{x}",
    b"4111 1111 1111 1111", b"2026-11-01T00:00:00Z", b"9999-12-31T23:59:59+00:00", b"-1", b"1e5",
    b"0001-01-01T00:00:00+23:59", "\N{SUPERSCRIPT TWO}\N{ARABIC-INDIC DIGIT ONE}".encode(),
]  # fmt: skip
_NUMBERS: Final = [0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 7, 255, 1 << 20, 1 << 40]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return one of the seeds with up to eight faults; sometimes none, sometimes parts of two."""
    body = bytearray(chance.choice(seeds))
    if chance.random() < 0.1:
        other = chance.choice(seeds)
        body[chance.randrange(len(body) + 1) :] = other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice([0, 1, 1, 2, 3, 8])):
        at = chance.randrange(len(body) + 1)
        length = chance.choice([1, 1, 2, 4, 8, 50])
        match chance.randrange(8):
            case 0:
                body[at : at + 1] = chance.randbytes(1)
            case 1:
                del body[at : at + length]
            case 2:
                body[at:at] = chance.choice(_TOKENS)
            case 3:
                body[at : at + length] = chance.choice(_TOKENS)
            case 4:
                body[at:at] = body[at : at + length * 10]
            case 5:
                number = chance.choice(_NUMBERS)
                size = chance.choice([4, 8])
                whole = number.to_bytes(16, "little", signed=True)[:size]
                body[at : at + size] = whole
            case 6:
                del body[at:]
            case _:
                end = chance.randrange(at, len(body) + 1)
                body[at:at] = body[at : min(end, at + 500)]
    return bytes(body)


_JSON_NUMBERS: Final = [
    "null", "true", "false", "NaN", "0", "-1", "1e30", "12.50", "9" * 300, "1e999999999", "-0.0",
    "1E-400", "0." + "1" * 60,
]  # fmt: skip


def _json_value(chance: random.Random, depth: int = 0) -> str:
    match chance.randrange(10 if depth < 4 else 7):
        case 0 | 1:
            return chance.choice(_JSON_NUMBERS)
        case 2 | 3 | 4:
            token = chance.choice(_TOKENS).decode("utf-8", "replace")
            return json.dumps(token, ensure_ascii=chance.random() < 0.5)
        case 5:
            return chance.choice(['"\\ud800"', '"\\u0000"', '"a\\/b"', '"\\ud83d\\ude00"', '""'])
        case 6:
            return json.dumps(chance.choice([_CARD, "2026-11-01T00:00:00Z", "PURCHASE", "[/x]"]))
        case 7:
            return "[" + ",".join(_json_value(chance, depth + 1) for _ in range(3)) + "]"
        case _:
            return _json_object(chance, depth + 1)


_NAMES: Final = [
    *TRANSACTIONS.names, "", "\0", "a\0b", "unreadable", "duplicate_field", "extra_fields",
    "position",
    _CARD, "café", "\U0001f600", '"', "\\", "[/x]", "x" * 300, "data", "next", "error", "type",
]  # fmt: skip


def _json_object(chance: random.Random, depth: int = 0) -> str:
    names = [chance.choice(_NAMES) for _ in range(chance.randrange(6))]
    blank = chance.choice(["", " ", "\t"])
    return (
        "{"
        + ",".join(
            f"{json.dumps(name, ensure_ascii=chance.random() < 0.5)}{blank}:{blank}"
            f"{_json_value(chance, depth)}"
            for name in names
        )
        + "}"
    )


_LEAVES: Final = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.null(),
    pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.date32(),
    pa.date64(), pa.time32("s"), pa.time64("ns"), pa.timestamp("s"), pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "Europe/Berlin"), pa.duration("ms"), pa.decimal128(18, 2),
    pa.decimal256(50, 10), pa.binary(16), pa.uuid(), pa.month_day_nano_interval(), pa.json_(),
]  # fmt: skip


def _arrow_type(chance: random.Random, depth: int = 0) -> pa.DataType:
    leaf = chance.choice(_LEAVES)
    if depth > 2 or chance.random() < 0.5:
        return leaf
    within = _arrow_type(chance, depth + 1)
    kinds: list[Callable[[], pa.DataType]] = [
        lambda: pa.list_(within),
        lambda: pa.large_list(within),
        lambda: pa.list_(within, 2),
        lambda: pa.list_view(within),
        lambda: pa.struct([("a", within), ("b", leaf)]),
        lambda: pa.map_(pa.string(), within),
        lambda: pa.dictionary(pa.int8(), pa.string()),
        lambda: pa.dictionary(pa.uint32(), leaf),
        lambda: pa.run_end_encoded(pa.int32(), leaf),
        lambda: pa.sparse_union([pa.field("a", within), pa.field("b", leaf)]),
        lambda: pa.dense_union([pa.field("a", within), pa.field("b", leaf)]),
    ]
    return chance.choice(kinds)()


def _arrow_body(chance: random.Random) -> bytes:
    """Return a stream of columns of any types: nulls, and zeros where Arrow can make them."""
    rows = chance.choice([0, 1, 3, 100])
    columns: list[Any] = []
    for _ in range(chance.randrange(1, 5)):
        kind = _arrow_type(chance)
        try:
            values: list[Any] = [None] * rows
            if pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_time(kind):
                values = [chance.choice([0, 1, 63, None]) for _ in range(rows)]
            elif pa.types.is_string(kind) or pa.types.is_dictionary(kind):
                values = [chance.choice(["a", _CARD, None]) for _ in range(rows)]
            elif pa.types.is_list(kind):
                values = [chance.choice([[], [None] * 3, None]) for _ in range(rows)]
            columns.append(pa.array(values, kind))
        except (pa.ArrowException, TypeError, ValueError):
            columns.append(pa.nulls(rows))
    names = [chance.choice([*_NAMES, "amount", "transaction_id"]) for _ in columns]
    schema = pa.schema(list(zip(names, [column.type for column in columns], strict=True)))
    sink = io.BytesIO()
    coding = chance.choice([None, None, "zstd", "lz4"])
    try:
        options = pa.ipc.IpcWriteOptions(compression=coding, unify_dictionaries=True)
        with pa.ipc.new_stream(sink, schema, options=options) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    except pa.ArrowException:
        return _ARROW_SEEDS[0]
    return sink.getvalue()


def _arrow_seeds() -> list[bytes]:
    plain = pa.Table.from_pylist(_ROWS)
    at = plain.schema.get_field_index("merchant_id")
    encoded = plain.set_column(at, "merchant_id", plain["merchant_id"].dictionary_encode())
    bodies: list[bytes] = []
    for table in (plain, encoded):
        for coding in (None, "zstd"):
            sink = io.BytesIO()
            options = pa.ipc.IpcWriteOptions(compression=coding)
            with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
                writer.write_table(table, max_chunksize=2)
            bodies.append(sink.getvalue())
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, plain.schema) as writer:
        writer.write_table(plain)
    return [*bodies, sink.getvalue(), b"PAR1\x15\x04"]


_ARROW_SEEDS: Final = _arrow_seeds()
_LINES: Final = [json.dumps(row) for row in _ROWS]
_CSV_LINES: Final = [",".join(map(str, row.values())) for row in _ROWS]
_CSV: Final = "\n".join([",".join(_ROWS[0]), *_CSV_LINES, ""]).encode()
_TOTALS: Final = ControlTotals.of(
    pa.RecordBatch.from_pylist(_ROWS).select(["transaction_id", "transaction_type", "amount"])
).to_json()


def _arrow(chance: random.Random) -> bytes:
    return mutated(chance, _ARROW_SEEDS if chance.random() < 0.5 else [_arrow_body(chance)])


def _csv(chance: random.Random) -> bytes:
    names = ",".join(chance.choice(_NAMES) for _ in range(chance.randrange(1, 5)))
    return mutated(chance, [_CSV, _CSV * 3, f"amount,{names}\n1,2\n1\n".encode()])


def _ndjson(chance: random.Random) -> bytes:
    own = [chance.choice([*_LINES, _json_object(chance), _json_value(chance)]) for _ in range(5)]
    return mutated(chance, ["\n".join([*own, ""]).encode("utf-8", "replace")])


def _page(chance: random.Random) -> bytes:
    own = [chance.choice([*_LINES, _json_object(chance), _json_value(chance)]) for _ in range(3)]
    more = chance.choice(["", '"a.b":1,', f'"meta":{_json_value(chance)},', '"data":1,'])
    following = _json_value(chance)
    text = f'{{{more}"data":[{",".join(own)}],"next":{following}}}'
    return mutated(chance, [text.encode("utf-8", "replace")])


def _totals(chance: random.Random) -> bytes:
    values = ",".join(f'"PURCHASE{number}":{_json_value(chance)}' for number in range(3))
    own = f'{{"rows":{_json_value(chance)},"amount_by_type":{{{values}}},"ids_digest":"{0:016x}"}}'
    return mutated(chance, [_TOTALS.encode(), own.encode("utf-8", "replace")])


def _openapi(chance: random.Random) -> bytes:
    kinds = ['"string"', '["string","null"]', "[]", "{}", "null", "7", '[["x"]]', '"number"']
    choices = ["anyOf", "oneOf", "allOf", "enum", "const"]
    fields = ",".join(
        f"{json.dumps(chance.choice(_NAMES))}:"
        + chance.choice(
            [
                f'{{"type":{chance.choice(kinds)},"x-since":{_json_value(chance)}}}',
                f'{{"{chance.choice(choices)}":{_json_value(chance)}}}',
                '{"$ref":"#/components/schemas/T/properties/a"}',
                f'{{"$ref":{_json_value(chance)}}}',
                _json_value(chance),
            ]
        )
        for _ in range(4)
    )
    answer = '{"schema":{"properties":{"data":{"items":{"$ref":"#/components/schemas/T"}}}}}'
    text = (
        f'{{"paths":{{"/v1/transactions":{{"get":{{"responses":{{"200":{{"content":'
        f'{{"application/json":{answer}}}}}}}}}}}}},"components":{{"schemas":{{"T":'
        f'{{"properties":{{"a":{{"$ref":"#/components/schemas/T/properties/a"}},{fields}}},'
        f'"x-dropped":{_json_value(chance)}}}}}}}}}'
    )
    return mutated(chance, [text.encode("utf-8", "replace")])


def _watermark(chance: random.Random) -> bytes:
    token = chance.choice(_TOKENS).decode("utf-8", "replace")
    return mutated(
        chance,
        [
            b'{"watermark":"2026-11-01T00:00:00Z"}',
            f'{{"watermark":{_json_value(chance)}}}'.encode("utf-8", "replace"),
            json.dumps({"watermark": token}).encode(),
        ],
    )


def _header(chance: random.Random) -> bytes:
    return mutated(
        chance,
        [
            b"120", b"-1", b"Wed, 21 Oct 2026 07:28:00 GMT", b"Wed, 21 Oct 2026 07:28:00 -0000",
            b"Fri, 31 Dec 9999 23:59:59 -2359", b"1e9", b"gzip, br", b"identity;q=0",
            b'<https://a/?p=2>; rel="next"', b"Sun, 06 Nov 0000 00:00:00 +9999", b"\xb2",
        ],
    )  # fmt: skip


_VARIABLES: Final = [
    "AWS_BUCKET_NAME", "AWS_ENDPOINT_URL", "AWS_REGION", "DELTA_LAKE_S3_PATH", "GENERATOR_FORMAT",
    "GENERATOR_URL", "TXN_CARD_KEY", "TXN_CARD_POLICY", "TXN_HOME", "TXN_LAKE_PREFIX",
    "TXN_MAX_QUARANTINE", "TXN_RAW_SSE", "TXN_S3_ADDRESSING", "TXN_SOURCE_ATTEMPTS",
    "TXN_SOURCE_MAX_BYTES", "TXN_SOURCE_READ_SECONDS", "TXN_SOURCE_WHOLE_SECONDS",
]  # fmt: skip


def _settings(chance: random.Random) -> bytes:
    seeds = [
        b"http://127.0.0.1:8000", b"s3://bucket/folder", b"json", b"bucket", b"0.05", b"token",
        b"/tx?from={start}&to={end}&skip={offset}", b"{x}", b"{start!r:>9999999999}", b"path", b"3",
        b"http://[", b"http://a_b:99999/?key=" + _CARD.encode(), b"data.rows", b"1e400", b"",
    ]  # fmt: skip
    names = chance.sample(_VARIABLES, chance.randrange(1, 4))
    return b"\n".join(
        name.encode()
        + b"="
        + _SECRET.encode() * (name == "TXN_CARD_KEY")
        + mutated(chance, seeds).replace(b"\0", b"").replace(b"\n", b"")
        for name in names
    )


class _Canned(Transport):
    """Answers every request with one body."""

    def __init__(self, content: bytes) -> None:
        super().__init__("http://127.0.0.1:9", Limits())
        self._content = content

    @override
    def get[T](
        self,
        request: Request,
        read: Callable[[Body], T],
        *,
        what: str,
        most_bytes: int,
        hint: str = "",
        refused_hint: str = "",
    ) -> T:
        return read(cast("Body", _CannedBody(self._content)))


class _CannedBody(io.BytesIO):
    is_empty = False


def _source(content: bytes) -> Source:
    source = Source("http://127.0.0.1:9", GENERATOR, Limits())
    source._transport = _Canned(content)
    return source


def _validate(body: bytes, batches: list[pa.RecordBatch]) -> None:
    """Validate and count the rows of some of the inputs: all would take longer."""
    if zlib.crc32(body) % _VALIDATED:
        return
    validator, tally, repeated = Validator(_WINDOW, NO_REPEATS), ReasonTally(), RepeatedIds()
    position = 0
    totals = ControlTotals()
    for batch in batches:
        positions = pa.array(range(position, position + len(batch)), pa.int64())
        rows = pa.RecordBatch.from_arrays(
            [positions, *batch.columns], schema=TRANSACTIONS.landed_schema
        )
        rows.validate(full=True)
        totals += ControlTotals.of(rows, repeated.add(rows.column("transaction_id")))
        result = validator.validate(rows)
        if len(result.conforming) + len(result.quarantined) != len(rows):
            raise AssertionError("a row is lost")
        tally.add(result.quarantined, result.rows_by_reason)
        position += len(batch)
    _require_no_card("; ".join(totals.differences(ControlTotals())))
    for reason in tally.most_common().values():
        for example in reason.examples:
            _require_no_card(example)


def _require_no_card(message: str) -> None:
    if _SHOWS_CARD.search(message) or not message.isprintable():
        raise AssertionError("a message shows a card number, or control characters")


def _require_no_secret(message: str) -> None:
    """Require that a message shows no key and no query of an address."""
    if _SECRET in message or "?key=" in message or not message.isprintable():
        raise AssertionError("a message shows a secret, or control characters")


def _decode(wire: str) -> Callable[[bytes], None]:
    def read(body: bytes) -> None:
        content = io.BufferedReader(io.BytesIO(body))
        _validate(body, list(DECODERS[wire](content, Budget(_MOST_BYTES))))

    return read


def _read_page(body: bytes) -> None:
    _validate(body, [page(body, ["data"], Budget(_MOST_BYTES)).rows])


def _read_totals(body: bytes) -> None:
    totals = _source(body).control_totals(_WINDOW, _WINDOW.end)
    if totals is None:
        raise AssertionError
    again = ControlTotals.parse(totals.to_json())
    if totals.differences(again) or (totals + again - again).differences(totals):
        raise AssertionError("totals are not the same when they are read again")
    str(totals.amount_by_type)
    _require_no_card("; ".join(totals.differences(ControlTotals())))


def _read_openapi(body: bytes) -> None:
    for drift in _source(body).drift(_WINDOW) or []:
        _require_no_card(drift.message)


def _read_watermark(body: bytes) -> None:
    _source(body).require_complete(_WINDOW)


def _read_header(body: bytes) -> None:
    text = body.decode("latin-1")
    seconds = transport._seconds(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise AssertionError(seconds)
    with suppress(RefusedError):
        transport._next_link(text)
    codings_in(text)


def _read_settings(body: bytes) -> None:
    for name in _VARIABLES:
        os.environ.pop(name, None)
    for line in body.split(b"\n"):
        name, _, value = line.partition(b"=")
        os.environb[name] = value
    settings = load_settings()
    open_source(settings, settings.generator_url or "http://127.0.0.1:9")


TARGETS: Final[dict[str, tuple[Callable[[random.Random], bytes], Callable[[bytes], None]]]] = {
    "arrow": (_arrow, _decode("arrow")),
    "csv": (_csv, _decode("csv")),
    "ndjson": (_ndjson, _decode("ndjson")),
    "json": (_page, _read_page),
    "totals": (_totals, _read_totals),
    "openapi": (_openapi, _read_openapi),
    "watermark": (_watermark, _read_watermark),
    "headers": (_header, _read_header),
    "settings": (_settings, _read_settings),
}


def input_of(target: str, seed: int, number: int) -> bytes:
    """Return one input, the same for the same arguments."""
    make, _ = TARGETS[target]
    return make(random.Random(f"{target}:{seed}:{number}"))  # noqa: S311


def _peak() -> int:
    status = Path("/proc/self/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


def try_one(target: str, seed: int, number: int) -> None:
    """Read one input; raises for anything but rows or a user error."""
    body = input_of(target, seed, number)
    _, read = TARGETS[target]
    start = time.process_time()
    try:
        read(body)
    except (UserError, UnreadableError) as error:
        if target == "settings":
            _require_no_secret(str(error))
        else:
            _require_no_card(str(error))
    seconds = time.process_time() - start
    if seconds > MOST_SECONDS:
        raise AssertionError(f"took {seconds:.1f} s of the processor for {len(body):,} bytes")


def run(target: str, seed: int, seconds: float, progress: str) -> None:
    """Read inputs for some seconds; print failures with their numbers on standard error.

    Args:
        target: one of `TARGETS`.
        seed: of all inputs.
        seconds: how long.
        progress: a file with the number of the current input, in case the process dies.
    """
    faulthandler.enable()
    file = os.open(progress, os.O_WRONLY | os.O_CREAT, 0o600)
    end = time.monotonic() + seconds
    number = warm = 0
    highest = 0
    while time.monotonic() < end:
        os.pwrite(file, f"{number:<20}".encode(), 0)
        try:
            try_one(target, seed, number)
            if number == _WARM:
                highest = _peak()
                warm = 1
            elif warm and _peak() > highest + MOST_GROWTH:
                raise AssertionError("memory grew")  # noqa: TRY301 - said like every other failure
        except BaseException:
            sys.stderr.write(f"{target}, seed {seed}, input {number}:\n{traceback.format_exc()}")
            sys.exit(1)
        number += 1


# One of so many inputs is also validated.
_VALIDATED: Final = 8
# After so many inputs a process has its usual size.
_WARM: Final = 50


if __name__ == "__main__":
    try_one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
