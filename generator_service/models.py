"""The parameters, responses and problems of the API, as OpenAPI describes them.

`routes.py` has the routes, and `wire.py` writes the rows.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from generator_service.simulator.configuration import FIRST_MOMENT, LAST_MOMENT
from generator_service.simulator.schema import Channel, TransactionType
from generator_service.wire import MEDIA_TYPES, Format, Types

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The text of `defects` is in a cursor.
_LONGEST_CURSOR = 4_000
_LONGEST_DEFECTS = 2_000
EXAMPLE_MOMENT = "2026-11-01T00:00:00Z"
"""The start of the window that messages, /docs and the start page use as an example."""

_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?P<zone>[Zz]|[+ -]\d\d:\d\d)?)?"
)


# Problems (RFC 9457).

_PROBLEMS = {
    HTTPStatus.BAD_REQUEST: ("invalid-cursor", "The cursor does not belong to this request"),
    HTTPStatus.UNAUTHORIZED: ("unauthorized", "This service needs a key"),
    HTTPStatus.FORBIDDEN: ("forbidden", "This request is not allowed"),
    HTTPStatus.NOT_FOUND: ("not-found", "There is nothing at this address"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method-not-allowed", "This address cannot do that"),
    HTTPStatus.NOT_ACCEPTABLE: ("not-acceptable", "No format that is accepted can be made"),
    HTTPStatus.UNPROCESSABLE_ENTITY: ("invalid-parameter", "A parameter cannot be used"),
    HTTPStatus.TOO_MANY_REQUESTS: ("too-many-requests", "The key has made too many requests"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("internal-error", "The generator failed"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("unavailable", "The service cannot answer now"),
}


class FieldError(BaseModel):
    """One wrong parameter or header, and what to send instead."""

    field: str = Field(description="The parameter or header", examples=["end"])
    given: str | None = Field(description="What was sent; null when nothing was")
    expected: str = Field(description="What to send instead", examples=["a time after start"])


class Problem(BaseModel):
    """An RFC 9457 problem: one sentence about the first error, and all errors."""

    type: str = Field(examples=["/problems/invalid-parameter"])
    title: str
    status: int
    detail: str = Field(
        examples=["end is '2026-10-31T00:00:00Z'; send a time after start, 2026-11-01T00:00:00Z."]
    )
    errors: list[FieldError]


class RequestError(Exception):
    """A request that cannot be answered; the response is its problem.

    Args:
        status: of the response.
        errors: what is wrong with the request.
        detail: a sentence in place of the one about the first error.
        headers: of the response.
        kind: the problem's name and title in place of those of its status.
    """

    def __init__(
        self,
        status: HTTPStatus,
        *errors: FieldError,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        kind: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(status, *errors)
        self.problem = problem(status, errors, detail, kind)
        self.headers = headers or {}


def problem(
    status: HTTPStatus,
    errors: Sequence[FieldError],
    detail: str | None = None,
    kind: tuple[str, str] | None = None,
) -> Problem:
    """Return the problem of a status; without a detail, its sentence is about the first error."""
    name, title = kind or _PROBLEMS[status]
    return Problem(
        type=f"/problems/{name}",
        title=title,
        status=status,
        detail=detail or _sentence(errors),
        errors=list(errors),
    )


def _sentence(errors: Sequence[FieldError]) -> str:
    if not errors:
        return "The request is sound; the service's log says what failed."
    first = errors[0]
    said = "is missing" if first.given is None else f"is {first.given!r}"
    return f"{first.field} {said}; send {first.expected}."


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems with these statuses to OpenAPI."""
    return {
        status: {
            "model": Problem,
            "description": _PROBLEMS[HTTPStatus(status)][1],
            "headers": _PROBLEM_HEADERS.get(HTTPStatus(status), {}),
        }
        for status in statuses
    }


def _header(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_RETRY_AFTER = {"Retry-After": _header("Seconds until the next request", "integer")}
_PROBLEM_HEADERS = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": _header("The scheme, Bearer", "string")},
    HTTPStatus.TOO_MANY_REQUESTS: _RETRY_AFTER,
    HTTPStatus.SERVICE_UNAVAILABLE: _RETRY_AFTER,
}
ROWS_HEADERS = {
    "X-Total-Rows": _header("The number of rows on all pages", "integer"),
    "Link": _header("The address of the next page, RFC 8288", "string"),
}
"""The headers of responses with rows, as OpenAPI describes them."""


def refused(field: str, given: object, expected: str) -> RequestError:
    """Return the error of a parameter with a value that cannot be used."""
    error = FieldError(field=field, given=str(given), expected=expected)
    return RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, error)


def missing(field: str, given: str, expected: str) -> RequestError:
    """Return the error of something that does not exist."""
    return RequestError(
        HTTPStatus.NOT_FOUND, FieldError(field=field, given=given, expected=expected)
    )


def field_errors(errors: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """Translate pydantic's errors in the parameters of a request."""
    return [_field_error(error) for error in errors]


def _field_error(error: Mapping[str, Any]) -> FieldError:
    field, given = str(error["loc"][-1]), str(error["input"])
    match error["type"]:
        case "unknown_parameter":
            given, expected = error["ctx"]["value"], error["msg"]
            return FieldError(field=error["ctx"]["name"], given=given, expected=expected)
        case "missing":
            return FieldError(field=field, given=None, expected=f"a time such as {EXAMPLE_MOMENT}")
        case "enum" | "literal_error":
            expected = f"one of {error['ctx']['expected']}"
            return FieldError(field=field, given=given, expected=expected)
        case _:
            expected = error["msg"].removeprefix("Input should be ")
            return FieldError(field=field, given=given, expected=expected)


def nearest(given: str, known: Iterable[str], otherwise: str) -> str:
    """Return the known name that is most similar, or `otherwise` when none is similar."""
    return next(iter(difflib.get_close_matches(given, list(known), 1)), otherwise)


# Moments.


def parse_moment(text: str) -> int:
    """Return the microseconds since the epoch of an RFC 3339 time with a zone.

    Raises:
        ValueError: it is not such a time, has a finer fraction, does not exist, or is beyond the
            simulator's range; the message says what to send instead.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"a time such as {EXAMPLE_MOMENT}")
    zone = match["zone"]
    if zone is None:
        raise ValueError(f"a time with its zone: add Z or an offset, as in {EXAMPLE_MOMENT}")
    if zone.startswith(" "):
        raise ValueError("the + of its offset as %2B: in an address, + means a space")
    try:
        moment = (datetime.fromisoformat(text.upper()) - _EPOCH) // _MICROSECOND
    except ValueError:
        raise ValueError(f"a day and a time that exist, such as {EXAMPLE_MOMENT}") from None
    if not FIRST_MOMENT <= moment <= LAST_MOMENT:
        first, last = moment_text(FIRST_MOMENT), moment_text(LAST_MOMENT)
        raise ValueError(f"a time from {first[:10]} to {last[:10]}")
    return moment


def moment_text(moment: int) -> str:
    """Return microseconds since the epoch as text, as in all formats: UTC, six digits, Z."""
    text = (_EPOCH + moment * _MICROSECOND).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def _as_moment(value: object) -> int:
    try:
        return parse_moment(str(value))
    except ValueError as error:
        raise PydanticCustomError("moment", "{expected}", {"expected": str(error)}) from None


Moment = Annotated[int, BeforeValidator(_as_moment, json_schema_input_type=datetime)]


MomentText = Annotated[
    str,
    Field(examples=["2026-11-01T14:00:00.000000Z"], json_schema_extra={"format": "date-time"}),
]

# Formats.


def negotiate(asked: Format | None, accept: str | None) -> Format:
    """Return the format asked for, or else the one that the Accept header prefers.

    Raises:
        RequestError: the header allows none of the formats (406).
    """
    if asked is not None:
        return asked
    if not accept:
        return Format.JSON
    preferences = [_preference(part) for part in accept.split(",") if part.strip()]
    for media_range, quality in sorted(preferences, key=lambda one: -one[1]):
        # As patterns, */* and text/* match the same media types as they do in HTTP.
        for form, media_type in MEDIA_TYPES.items():
            if quality > 0 and fnmatchcase(media_type, media_range):
                return form
    expected = f"one of {', '.join(MEDIA_TYPES.values())}, or */*"
    error = FieldError(field="Accept", given=accept, expected=expected)
    raise RequestError(HTTPStatus.NOT_ACCEPTABLE, error)


def _preference(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return media_range, float(quality)
    except ValueError:
        return media_range, 0.0


# Parameters.


class _Parameters(BaseModel):
    """The parameters of a route; others are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: dict[str, object]) -> dict[str, object]:
        known = list(cls.model_fields)
        for name, value in given.items():
            if name not in known:
                instead = nearest(name, known, f"one of {', '.join(known)}")
                raise PydanticCustomError(
                    "unknown_parameter",
                    "{instead} instead: no parameter here is called {name}",
                    {"instead": instead, "name": name, "value": str(value)},
                )
        return given


class FormatParameters(_Parameters):
    """The format of the rows."""

    format: Format | None = Field(
        None, description="The format of the response; overrides the Accept header"
    )
    types: Types = Field(
        Types.TYPED,
        description="Arrow and Parquet only: columns of their own types, or the text JSON carries; "
        "rows with defects or a drifting schema are always text",
    )


class PageParameters(FormatParameters):
    """Which part of the rows."""

    limit: int | None = Field(
        None,
        description="At most this many rows; the Link header and, in JSON, `next` lead to the "
        "others. Without it JSON gives pages, the other formats all rows. Copies that `defects` "
        "adds do not count",
    )
    cursor: str | None = Field(
        None,
        # A longer one is no cursor of the service, which is another problem.
        json_schema_extra={"maxLength": _LONGEST_CURSOR},
        description="Where to go on: from `next` or Link, unchanged",
    )


class WindowParameters(_Parameters):
    """A half-open window of time, and the moment of observation."""

    start: Moment = Field(
        description="Start of the window, RFC 3339 with its zone; in the window",
        examples=[EXAMPLE_MOMENT],
    )
    end: Moment = Field(
        description="End of the window; not in the window", examples=["2026-11-01T01:00:00Z"]
    )
    as_of: Moment | None = Field(
        None,
        description="Only rows that had arrived by this moment; without it, all that ever will",
    )


class ScorecardParameters(_Parameters):
    """The rows to measure."""

    start: Moment | None = Field(
        None,
        description="Start of the window; without it, 31 days before the end, or as many as a "
        "request may ask for",
    )
    end: Moment | None = Field(
        None, description="End of the window; without it, the newest complete hour's"
    )
    rows: Annotated[int, Field(ge=1_000, le=1_000_000)] = Field(
        1_000_000, description="The number of rows to measure, at most"
    )
    format: Literal["json", "html"] | None = Field(
        None, description="html is a page with pictures; without it, what Accept prefers, or json"
    )


class TotalsParameters(WindowParameters):
    """The window of the totals, and the defects of its rows."""

    defects: str | None = Field(
        None,
        max_length=_LONGEST_DEFECTS,
        description="The share of rows with each kind of defect, see /v1/defects: `all:0.02`, or "
        "`amount_scale:0.01,duplicate_id:0.005`; empty for none. Without it, the setting of the "
        "service",
    )


class TransactionParameters(PageParameters, TotalsParameters):
    """Which transactions, and their format."""

    labels: Literal["oracle", "delayed"] = Field(
        "oracle",
        description="oracle: fraud is labelled at once; delayed: when it became known, by `as_of`",
    )


class DefectParameters(TransactionParameters):
    """Which transactions, their defects, and the format of the account."""

    defects: str | None = Field(
        None,
        max_length=_LONGEST_DEFECTS,
        description="The `defects` of the request to /v1/transactions",
        examples=["all:0.02"],
    )


class SampleParameters(FormatParameters):
    """How many recent transactions."""

    count: int = Field(30, ge=1, le=10_000, description="How many transactions")


# Answers.


class Generator(BaseModel):
    """The generator of the rows: the same version and configuration make the same rows."""

    version: str = Field(examples=["1"])
    configuration: str = Field(
        description="Digest of the version and all settings that decide the rows",
        examples=["9f86d081884c7d65"],
    )


class Transaction(BaseModel):
    """A transaction as JSON carries it; CSV, and Arrow with `types=text`, carry the same text."""

    transaction_id: str = Field(
        description="UUIDv7; sorts by time", examples=["019a3f00-1c2b-7d3e-8f4a-5b6c7d8e9f00"]
    )
    transaction_at: MomentText = Field(description="When it happened")
    customer_id: str = Field(description="The paying customer; see /v1/customers")
    card_number: str = Field(description="The card, in clear; see /v1/cards")
    merchant_id: str = Field(description="The merchant; see /v1/merchants")
    merchant_name: str
    merchant_category_code: str = Field(description="ISO 18245", pattern=r"^\d{4}$")
    transaction_type: TransactionType
    channel: Channel
    amount: str = Field(
        description="In units of the currency, two decimals; zeros where it has none (JPY)",
        pattern=r"^\d+\.\d\d$",
    )
    currency: str = Field(description="ISO 4217", pattern="^[A-Z]{3}$")
    country: str = Field(description="ISO 3166, of the place it happened at", pattern="^[A-Z]{2}$")
    latitude: float = Field(description="Where the customer was, six decimals", ge=-90, le=90)
    longitude: float = Field(description="Where the customer was, six decimals", ge=-180, le=180)
    is_fraud: bool
    fraud_scenario: str | None = Field(description="Which mechanism made it; null when not fraud")
    original_transaction_id: str | None = Field(description="Of a REFUND: what is paid back")


class TransactionPage(BaseModel):
    """A page of a window."""

    data: list[Transaction]
    next: str | None = Field(description="Address of the next page; null on the last")
    start: MomentText
    end: MomentText
    as_of: MomentText | None
    generator: Generator


class TransactionSample(BaseModel):
    """Recent transactions, the newest first."""

    data: list[Transaction]
    generator: Generator


class OneTransaction(BaseModel):
    """A transaction."""

    data: Transaction
    generator: Generator


class Defect(BaseModel):
    """The defect of one row that is sent."""

    transaction_id: str = Field(description="The true id, whatever is sent")
    position: int = Field(
        description="The position of the row among all rows that are sent, from 0"
    )
    kind: str = Field(examples=["amount_scale"])
    field: str = Field(description="The field that is corrupted or added", examples=["amount"])
    before: str | None = Field(description="Its true text; null for an added field")


class DefectPage(BaseModel):
    """The account of a page of a window."""

    data: list[Defect]
    next: str | None = Field(description="Address of the next page; null on the last")
    start: MomentText
    end: MomentText
    as_of: MomentText | None
    generator: Generator


class Customer(BaseModel):
    """A customer."""

    customer_id: str
    name: str
    email: str
    birth_date: date
    street: str
    city: str
    country: str
    latitude: float
    longitude: float


class Card(BaseModel):
    """A card and its owner."""

    card_number: str
    customer_id: str
    network: str


class Merchant(BaseModel):
    """A merchant."""

    merchant_id: str
    merchant_name: str
    merchant_category_code: str
    city: str
    country: str
    currency: str
    latitude: float
    longitude: float


class ReferencePage[Row: BaseModel](BaseModel):
    """A page of reference data."""

    data: list[Row]
    next: str | None = Field(description="Address of the next page; null on the last")
    generator: Generator


class WindowTotals(BaseModel):
    """The control totals of a window; a client computes the same of its rows, and compares."""

    start: MomentText
    end: MomentText
    as_of: MomentText | None
    rows: int
    amount_by_type: dict[str, str] = Field(
        description="Sum of amounts by transaction type; only types that occur",
        examples=[{"PURCHASE": "123.45"}],
    )
    ids_digest: str = Field(examples=["00f1e2d3c4b5a697"])
    generator: Generator


class Watermark(BaseModel):
    """The time up to which windows are complete."""

    watermark: MomentText = Field(description="End of the newest complete window")
    window: str = Field(default="PT1H", description="Length of a window, ISO 8601")


class Health(BaseModel):
    """The service is up."""

    status: Literal["ok"] = "ok"
    version: str
    configuration: str
