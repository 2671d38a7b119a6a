"""How one page of a source leads to the next: a style for each kind of API.

A style reads answers and makes requests; `client` sends them, and `transport` refuses a page of
another origin. A style never takes silence for the end: where an answer does not say whether more
follows, it raises a `PagesError`, and the window fails.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, override

from txn_platform.errors import UserError, shown
from txn_platform.runbook import Section
from txn_platform.source.envelope import count_of, value_at
from txn_platform.source.json_rows import Digits, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from txn_platform.source.requests import Request

type Place = Literal["query", "body"]
"""Where a request has the value that asks for a page."""

# A text without any of this is a token. One with a slash is tried as an address.
_ADDRESS: Final = re.compile(r"https?:|[^\s?]*[/?]", re.IGNORECASE)


class PagesError(Exception):
    """A page does not say what its style expects; the message goes on after the source's name."""


@dataclass(frozen=True)
class Answered:
    """An answer, as far as it may say what follows.

    Attributes:
        envelope: the members of a JSON page, without its rows; empty for other formats.
        previous: those of the page before; empty for the first.
        is_empty: whether its status says that it has no content (204).
        has_link: whether the answer has a `Link` header.
        link: the target of its link to the next page (RFC 8288).
        answers: how many of the window came so far, with this one.
        rows: how many rows they have.
        new_rows: how many this one has.
        last_row: the last row as sent, of a JSON page.
    """

    envelope: Mapping[str, Any]
    previous: Mapping[str, Any]
    is_empty: bool
    has_link: bool
    link: str | None
    answers: int
    rows: int
    new_rows: int
    last_row: bytes | None


@dataclass(frozen=True)
class End:
    """No page follows.

    Attributes:
        is_proven: the answer has no row, where another page would have some.
    """

    is_proven: bool = False


type Following = Request | str | End
"""A request, the address of a page relative to the answer's, or the end."""


class Pages(ABC):
    """A style of pages.

    Attributes:
        most_alike: how many answers with the same rows are accepted. Where we ask for a page by a
            value, an answer that comes again shows that the source does not know the parameter.
    """

    most_alike: ClassVar[int] = 1

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of JSON that it reads; only pages of JSON have any."""
        return ()

    def first(self, request: Request) -> Request:
        """The request for the first page.

        Args:
            request: for the window.
        """
        return request

    @abstractmethod
    def following(self, first: Request, answer: Answered) -> Following:
        """The request after an answer, the address that it names, or the end.

        Args:
            first: the request for the first page.
            answer: the last that came.

        Raises:
            PagesError: the answer does not say it.
        """


@dataclass(frozen=True)
class SinglePage(Pages):
    """Each window is one answer."""

    @override
    def following(self, first: Request, answer: Answered) -> Following:
        if answer.link is not None:
            raise PagesError(
                "has a next page in its Link header, and its pages are SinglePage(): set pages to"
                ' NextLink(header="Link")'
            )
        return End()


@dataclass(frozen=True)
class NextLink(Pages):
    """An answer has the address of the next page, in a field or in its `Link` header.

    Attributes:
        field: of a JSON page, a name or names joined by dots. Null and empty text are the end.
        end: `absent` if the field, or the header, is left out on the last page, as in OData, HAL
            and Open Banking. With `null` that is an error.
        header: `Link` for the header (RFC 8288), of any format; one without `rel=next` is the end.
    """

    field: str = "next"
    end: Literal["null", "absent"] = "null"
    header: Literal["Link"] | None = None
    most_alike: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _require_one_of(self, end=("null", "absent"), header=(None, "Link"))

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return () if self.header else (self.field,)

    @override
    def following(self, first: Request, answer: Answered) -> Following:
        if answer.link is None:
            _require_content(self, answer)
        if self.header:
            if not answer.has_link and self.end == "null":
                raise PagesError(
                    "sends answers without a Link header, so that it is not known whether there are"
                    ' more: set pages to another style, or add end="absent" to NextLink(...) if the'
                    " source leaves the header out on its last page"
                )
            return End() if answer.link is None else answer.link
        found, value = value_at(answer.envelope, self.field.split("."))
        if not found and answer.link is None and self.end == "null":
            raise PagesError(
                f"sends pages without {self.field!r}, so that it is not known whether there are"
                f" more: let pages=NextLink(...) name the field that has the next page's address,"
                ' or add end="absent" if the source leaves it out on its last page'
            )
        if value is None or value == "":
            return End() if answer.link is None else answer.link
        if not isinstance(value, str) or isinstance(value, Digits):
            example = f', as in NextLink("{self.field}.href")' if isinstance(value, dict) else ""
            raise PagesError(
                f"sends pages whose {self.field!r} is neither the text of an address nor null: let"
                f" pages=NextLink(...) name the field that has the next page's address{example}"
            )
        if not _ADDRESS.match(value):
            raise PagesError(
                f"sends pages whose {self.field!r} is a text, and no address: if it is a token for"
                f' the next page, set pages to Cursor("{self.field}", parameter="...") instead of'
                " NextLink(...)"
            )
        return value


@dataclass(frozen=True)
class ByParameter(Pages):
    """Styles that ask for a page by a value.

    Attributes:
        place: of the parameter: the query, or the JSON body of a POST, where its name may be names
            joined by dots.
    """

    place: Place = field(default="query", kw_only=True)

    def __post_init__(self) -> None:
        _require_one_of(self, place=("query", "body"))

    def _ask(self, request: Request, parameter: str, value: str | int) -> Request:
        if self.place == "body":
            # A number that was sent as one is sent back as one.
            as_sent = isinstance(value, Digits) and value.isdecimal()
            return request.with_member(parameter.split("."), int(value) if as_sent else value)
        return request.with_parameter(parameter, value)

    def _more(self, answer: Answered, name: str) -> bool:
        """Whether a page says that another follows, at a field that must be true or false."""
        found, value = value_at(answer.envelope, name.split("."))
        if isinstance(value, bool):
            return value
        is_there = "whose" if found else "without"
        tail = " is neither true nor false" if found else ""
        raise PagesError(
            f"sends pages {is_there} {name!r}{tail}, so that it is not known whether there are"
            f" more: let more= of pages={type(self).__name__}(...) name the field that says so"
        )

    def _count(self, answer: Answered, name: str, came: int) -> int:
        """How many rows or pages a page says that there are; `came` of them did."""
        path = name.split(".")
        count = count_of(value_at(answer.envelope, path)[1])
        if count is None:
            raise PagesError(
                f"sends pages without a number under {name!r}, so that it is not known whether"
                f" there are more: let total= of pages={type(self).__name__}(...) name the field"
                " that has it"
            )
        before = count_of(value_at(answer.previous, path)[1]) or 0
        if count < before or (answer.rows and count < came):
            raise PagesError(
                f"says under {name!r} that there are {count:,}, after it said or sent"
                f" {max(before, came):,}: look at total= of pages={type(self).__name__}(...); if it"
                " is right, rows went away while they were asked for, so run it again"
            )
        return count


@dataclass(frozen=True)
class AfterLast(ByParameter):
    """The next page is asked for by a value of the last row, as Stripe's `starting_after`.

    Attributes:
        parameter: takes the value.
        field: of a row, that has the value.
        more: of a page, that says whether another follows. None asks until a page has no row.
    """

    parameter: str = "starting_after"
    field: str = "id"
    more: str | None = "has_more"

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return (self.more or self.field,)

    @override
    def following(self, first: Request, answer: Answered) -> Following:
        if not (self._more(answer, self.more) if self.more else answer.new_rows):
            return End(is_proven=not self.more)
        row = None if answer.last_row is None else parsed(answer.last_row)
        value = value_at(row, self.field.split("."))[1]
        if not isinstance(value, str) or not value:
            raise PagesError(
                f"has more pages, and no text under {self.field!r} in the last row of one: let"
                " field= of pages=AfterLast(...) name the field of a row by which the next page is"
                " asked for"
            )
        return self._ask(first, self.parameter, value)


@dataclass(frozen=True)
class Cursor(ByParameter):
    """An answer has a token, and the request for the next page repeats it.

    Attributes:
        field: of a JSON page, with the token. Without `more`, null and empty text are the end.
        parameter: takes the token.
        more: of a page, that says whether another follows, if the API has such a field.
        end: `absent` if the token is left out on the last page; with `null` that is an error.
    """

    field: str
    parameter: str = "cursor"
    more: str | None = None
    end: Literal["null", "absent"] = "null"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _require_one_of(self, end=("null", "absent"))

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return (self.field, *([self.more] if self.more else []))

    @override
    def following(self, first: Request, answer: Answered) -> Following:
        if self.more and not self._more(answer, self.more):
            return End()
        _require_content(self, answer)
        found, value = value_at(answer.envelope, self.field.split("."))
        if isinstance(value, str) and value:
            return self._ask(first, self.parameter, value)
        if self.more:
            raise PagesError(
                f"says under {shown(self.more)} that there are more rows, and has no token under"
                f" {self.field!r}: let pages=Cursor(...) name the field that has the token"
            )
        if not found and self.end == "null":
            raise PagesError(
                f"sends pages without {self.field!r}, so that it is not known whether there are"
                " more: let pages=Cursor(...) name the field that has the token, or add"
                ' end="absent" if the source leaves it out on its last page'
            )
        if value is None or value == "":
            return End()
        raise PagesError(
            f"sends pages whose {self.field!r} is neither a token nor null: let pages=Cursor(...)"
            " name the field that has the token"
        )


@dataclass(frozen=True)
class PageNumber(ByParameter):
    """Pages have numbers.

    Attributes:
        parameter: takes the number.
        total: of a page, the number of all pages.
        more: of a page, that says whether another follows. Without `total` and `more`, pages are
            asked for until one has no row.
        start: the number of the first page.
    """

    parameter: str = "page"
    total: str | None = None
    more: str | None = None
    start: int = 1

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return tuple(name for name in (self.total, self.more) if name)

    @override
    def first(self, request: Request) -> Request:
        return self._ask(request, self.parameter, self.start)

    @override
    def following(self, first: Request, answer: Answered) -> Following:
        if self.more:
            goes_on = self._more(answer, self.more)
        elif self.total:
            total = self._count(answer, self.total, answer.answers)
            goes_on = answer.answers < total
            if not goes_on and total > 1 and not answer.new_rows:
                raise PagesError(
                    f"says under {self.total!r} that there are {total:,} pages, and the last has no"
                    " row: let start= of pages=PageNumber(...) be the number of the first page, and"
                    " total= name the number of pages"
                )
        else:
            goes_on = answer.new_rows > 0
        number = self.start + answer.answers
        if goes_on:
            return self._ask(first, self.parameter, number)
        return End(is_proven=not self.fields)


@dataclass(frozen=True)
class Offset(ByParameter):
    """A page begins after a number of rows.

    Attributes:
        parameter: takes the number of rows that came so far.
        total: of a page, the number of all rows.
        more: of a page, that says whether another follows. Without `total` and `more`, pages are
            asked for until one has no row.
    """

    parameter: str = "offset"
    total: str | None = None
    more: str | None = None

    @property
    @override
    def fields(self) -> tuple[str, ...]:
        return tuple(name for name in (self.total, self.more) if name)

    @override
    def first(self, request: Request) -> Request:
        return self._ask(request, self.parameter, 0)

    @override
    def following(self, first: Request, answer: Answered) -> Following:
        if self.more:
            goes_on = self._more(answer, self.more)
        elif self.total:
            goes_on = answer.rows < self._count(answer, self.total, answer.rows)
        else:
            goes_on = answer.new_rows > 0
        if goes_on and not answer.new_rows:
            raise PagesError(
                f"says that there are more rows than {answer.rows:,}, and sends none after them:"
                " look at pages=Offset(...)"
            )
        if goes_on:
            return self._ask(first, self.parameter, answer.rows)
        return End(is_proven=not self.fields)


def _require_content(pages: Pages, answer: Answered) -> None:
    """Refuse an answer without content where the last one named a page."""
    if answer.is_empty:
        raise PagesError(
            "names a next page, and answers the request for it with status 204, so that it is not"
            f" known whether there are more: look at pages={type(pages).__name__}(...)"
        )


def _require_one_of(pages: Pages, **allowed: tuple[str | None, ...]) -> None:
    """Refuse a value that no type checker has looked at: another word would mean something else."""
    for name, values in allowed.items():
        if getattr(pages, name) not in values:
            raise UserError(
                f"{name} of {type(pages).__name__}(...) must be one of"
                f" {', '.join(map(repr, values))}",
                Section.SETTINGS,
            )
