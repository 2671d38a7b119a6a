"""The API of a source, as one value: what is asked, how it is paged, and who asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, Literal, cast, override
from urllib.parse import quote

from txn_platform.errors import UserError
from txn_platform.runbook import Section
from txn_platform.source.auth import Secret
from txn_platform.source.decoding import FORMATS, PAGES
from txn_platform.source.pages import ByParameter, NextLink, Pages
from txn_platform.source.requests import Request, json_body
from txn_platform.windows import iso

if TYPE_CHECKING:
    from txn_platform.source.auth import Auth

_TIMES: Final = ("start", "end", "last", "as_of")
# Forms of a time, besides that of strftime.
_FORMS: Final = ("", "unix", "unix_millis", "date")
_STRFTIME: Final = re.compile(r"(?:%[YymdHMSfjZz%]|[^%{}])+")
_WHOLE_NUMBER: Final = re.compile(r"\{(?:start|end|last|as_of):unix(?:_millis)?\}")
_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1)
_MILLISECOND: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SourceApi:
    """The API of a source.

    In `transactions`, `totals` and the texts of `body`, these stand for times: `{start}` and
    `{end}` of a window `[start, end)`, `{last}`, the last moment before the end, for an API whose
    upper bound is included, and `{as_of}`, the time of the request. Each is written as RFC 3339 in
    UTC, `{start:unix}` as whole seconds since 1970, `{start:unix_millis}` as milliseconds,
    `{start:date}` as 2026-11-01, and `{start:%Y-%m-%dT%H:%M:%S}` as strftime does. `{format}`
    stands for `format`. Any other brace is written twice.

    Attributes:
        transactions: the path of a window's rows, below the source's address. Its query can have a
            key, which is shown nowhere.
        pages: how one page leads to the next. JSON needs a style, `SinglePage()` for an API that
            answers with all rows. Other formats need none: a next page in the `Link` header is
            followed.
        auth: gives the headers that authenticate a request; None for an open API.
        items: the names on the way to the rows in a JSON page, joined by dots; empty if the page
            is the list of rows itself.
        empty: a JSON page without rows has an empty `list` at `items`. `absent` if it leaves the
            list out, or has null there, as Square does; with `list` that is an error.
        body: the JSON body of a POST for the rows, which may contain `Secret`; None for GET. A text
            that is `{start:unix}` alone becomes a number.
        totals: the path of a window's control totals, as `ControlTotals` reads them; None for a
            source that states none.
        watermark: the path of the end of the newest complete hour; None for the last full hour that
            is older than `lag`.
        description: the path of an OpenAPI description of the rows; None for a source without one.
        format: `json` comes in pages; `arrow`, `csv` and `ndjson` stream.
        lag: rows arrive up to this late; None for `TXN_SETTLED_HOURS`. The sensor runs a window of
            a source without totals once more when the watermark has passed its end by as much.

    Raises:
        UserError: it cannot be as it is described; the message names the attribute.
    """

    transactions: str = field(repr=False)
    pages: Pages | None = None
    auth: Auth | None = None
    items: str = "data"
    empty: Literal["list", "absent"] = "list"
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    totals: str | None = field(default=None, repr=False)
    watermark: str | None = field(default=None, repr=False)
    description: str | None = field(default=None, repr=False)
    format: str = PAGES
    lag: timedelta | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise _not_allowed("format", f"must be one of {', '.join(FORMATS)}")
        _require_path("transactions", self.transactions)
        _require_text_of_body(self.body)
        for name in ("totals", "watermark", "description"):
            path = getattr(self, name)
            if path is not None:
                _require_path(name, path)
        self._require_pages()
        if self.empty not in {"list", "absent"}:
            raise _not_allowed("empty", "must be 'list' or 'absent'")
        if self.empty == "absent" and (self.format != PAGES or not self.items):
            raise _not_allowed("empty", "is 'absent', and no list is left out: name it with items")
        if self.auth is not None and not callable(self.auth):
            raise _not_allowed("auth", "must be bearer, header, basic, or a function of a request")
        # No type checker has looked at what a user writes.
        lag: Any = self.lag
        if lag is not None and not (isinstance(lag, timedelta) and lag >= timedelta(0)):
            raise _not_allowed("lag", "must be a timedelta of zero or more")

    def _require_pages(self) -> None:
        if self.pages is None and self.format != PAGES:
            return
        if not isinstance(self.pages, Pages):
            raise _not_allowed(
                "pages",
                "must say how one JSON page leads to the next: NextLink(...), AfterLast(...),"
                " Cursor(...), PageNumber(...) or Offset(...), or SinglePage() if each answer has"
                " all rows",
            )
        if self.format != PAGES and self.pages.fields:
            raise _not_allowed(
                "pages",
                f"reads fields of JSON, and {self.format} has none: use Offset, PageNumber or"
                ' NextLink(header="Link") without fields',
            )
        in_body = isinstance(self.pages, ByParameter) and self.pages.place == "body"
        if in_body and self.body is None:
            raise _not_allowed(
                "pages", 'has place="body", and there is no body: give it, as body={}'
            )

    @property
    def style(self) -> Pages:
        """How one answer leads to the next."""
        return self.pages or NextLink(header="Link", end="absent")

    @property
    def path_of_items(self) -> list[str]:
        """The names on the way to the rows in a JSON page."""
        return self.items.split(".") if self.items else []

    def request(self, url: str, start: datetime, end: datetime, as_of: datetime) -> Request:
        """The request for the rows of a time.

        Args:
            url: the source's address.
            start: the first moment.
            end: the end, which is not included.
            as_of: rows that arrived later are left out, if the source knows of that.

        Raises:
            UserError: a secret of the body is not set.
        """
        values = _moments(start, end, as_of) | {"format": self.format}
        address = address_of(url, _filled(self.transactions, values))
        if self.body is None:
            return Request(address)
        return Request(address, json_body(cast("Mapping[str, Any]", _filled_in(self.body, values))))

    def totals_path(self, start: datetime, end: datetime, as_of: datetime) -> str | None:
        """The path of the control totals of a time; None when the source states none."""
        if self.totals is None:
            return None
        return _filled(self.totals, _moments(start, end, as_of) | {"format": self.format})


def address_of(url: str, path: str) -> str:
    """The address of a path, or of a query, below a source's own."""
    return f"{url}{path}" if path.startswith(("/", "?")) else f"{url}/{path}"


class _Moment:
    """A time that is formatted as a placeholder asks.

    `last` is the last moment before an end, in the unit of its form.
    """

    def __init__(self, moment: datetime, *, is_last: bool = False) -> None:
        self._moment = moment.astimezone(UTC)
        self._is_last = is_last

    @override
    def __format__(self, form: str) -> str:
        match form:
            case "unix":
                return str(self._count(_SECOND))
            case "unix_millis":
                return str(self._count(_MILLISECOND))
            case _:
                moment = self._moment - _MICROSECOND if self._is_last else self._moment
                if form == "date":
                    return moment.date().isoformat()
                return moment.strftime(form) if form else iso(moment)

    def _count(self, unit: timedelta) -> int:
        since = self._moment - _EPOCH
        # An end within a unit has that unit for its last.
        return -(-since // unit) - 1 if self._is_last else since // unit


class _Quoted:
    """A value as a part of a path or of a query."""

    def __init__(self, value: object) -> None:
        self._value = value

    @override
    def __format__(self, form: str) -> str:
        return quote(format(self._value, form), safe="")


def _moments(start: datetime, end: datetime, as_of: datetime) -> dict[str, object]:
    return {
        "start": _Moment(start),
        "end": _Moment(end),
        "last": _Moment(end, is_last=True),
        "as_of": _Moment(as_of),
    }


def _filled(path: str, values: Mapping[str, object]) -> str:
    return path.format_map({name: _Quoted(value) for name, value in values.items()})


def _filled_in(value: Any, values: Mapping[str, object]) -> Any:
    """A part of a body, with times and secrets."""
    match value:
        case str():
            text = value.format_map(values)
            return int(text) if _WHOLE_NUMBER.fullmatch(value) else text
        case Secret():
            return value.value()
        case Mapping():
            members = cast("Mapping[str, Any]", value)
            return {name: _filled_in(each, values) for name, each in members.items()}
        case list() | tuple():
            return [_filled_in(each, values) for each in cast("list[Any]", value)]
        case _:
            return value


def _require_text_of_body(value: Any) -> None:
    match value:
        case str():
            _require_template("body", value)
        case Mapping():
            for each in cast("Mapping[str, Any]", value).values():
                _require_text_of_body(each)
        case list() | tuple():
            for each in cast("list[Any]", value):
                _require_text_of_body(each)
        case None | bool() | int() | float() | Secret():
            pass
        case _:
            raise _not_allowed("body", f"has a {type(value).__name__}, which is no JSON")


def _require_path(name: str, path: str) -> None:
    if not path.startswith(("/", "?")):
        raise _not_allowed(name, "must begin with a slash: it is a path below the source's address")
    if any(character.isspace() for character in path) or "#" in path:
        raise _not_allowed(name, "must have no white space and no #: write %20 and %23")
    _require_template(name, path)


def _require_template(name: str, text: str) -> None:
    """Check a text with placeholders; no message shows it, because it can have a key."""
    doubled = "any other brace is written twice, as {{ or }}"
    try:
        fields = [each for each in Formatter().parse(text) if each[1] is not None]
    except ValueError:
        raise _not_allowed(name, f"has a brace without its other: {doubled}") from None
    for _, placeholder, form, conversion in fields:
        is_known = _is_form(form or "") if placeholder in _TIMES else not form
        if placeholder not in {*_TIMES, "format"} or not is_known or conversion:
            raise _not_allowed(
                name,
                "has a placeholder that is not known: those of a time are {start}, {end}, {last}"
                " and {as_of}, alone, with :unix, :unix_millis or :date, or with a form of"
                f" strftime, as {{start:%Y%m%d}}; there is also {{format}}, and {doubled}",
            )


def _is_form(form: str) -> bool:
    """Whether it is a form of a time."""
    return form in _FORMS or ("%" in form and _STRFTIME.fullmatch(form) is not None)


def _not_allowed(name: str, fault: str) -> UserError:
    return UserError(f"{name} of a SourceApi {fault}", Section.SETTINGS)
