"""Faults of the columns of a contract: options and rules that could not be applied to rows.

Rows stream, so that a rule looks at one row. Each rule is tried with a few values when the contract
is made: a fault that rows would show later is told then, with the column and a remedy.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import dataframely as dy
import polars as pl

from txn_platform.contract.card_numbers import CARD_NUMBER_RULE, shows_card_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TEXT: Final = (pl.String, pl.Enum, pl.Categorical)
# The names that dataframely gives to the rules of checks begin so.
_CHECK: Final = "check__"
# The name of a check is a part of reasons.
_NAME_OF_CHECK: Final = re.compile(r"[A-Za-z0-9_]+")
# Problems that the platform itself looks for in every column, and in those of two roles.
_RESERVED: Final[dict[str | None, frozenset[str]]] = {
    None: frozenset({CARD_NUMBER_RULE.removeprefix(_CHECK)}),
    "id": frozenset({"duplicate", "conflict"}),
    "time": frozenset({"outside_window"}),
}
_SEARCHES: Final = ("within", "whole", "none")
# Of each type six values, of which two are equal.
_VALUES: Final[dict[type[pl.DataType], list[Any]]] = {
    pl.String: ["", "a", "a", "1", "Zz 9", None],
    pl.Boolean: [True, True, False, True, False, None],
    pl.Date: [*(dt.date(2026, 11, day) for day in (1, 2, 2, 3, 1)), None],
    pl.Datetime: [*(dt.datetime(2026, 11, day, tzinfo=dt.UTC) for day in (1, 2, 2, 3, 1)), None],
}
_NUMBERS: Final = [0, 1, 1, -1, 100, None]
_ROWS: Final = 12
# A rule that counts rows may allow a few.
_COPIES: Final = 100
_REMEDY_OF_PATTERNS: Final = (
    "write its pattern as for Rust, without look-around and back-references"
)
_REMEDY_OF_CHECKS: Final = (
    "let it give false or null for a value that it cannot read, as with strict=False"
)


def problem_of(rule: str) -> str:
    """The problem that a check finds, by the name that dataframely gives its rule."""
    return rule.removeprefix(_CHECK)


def checks_of(column: dy.Column, value: pl.Expr) -> dict[str, pl.Expr]:
    """The checks of a column that are functions, by the names of their problems."""
    rules = column.validation_rules(value).items()
    return {problem_of(rule): check for rule, check in rules if rule.startswith("check")}


def faults_of_options(name: str, column: dy.Column) -> Iterator[str]:
    """A phrase for each option of a column that has no meaning."""
    options: Any = column.metadata or {}
    description: Any = column.description
    if not isinstance(description, str | None):
        yield f"the column {name!r} has a description that is no text: write it as text"
    checks = checks_of(column, pl.col(name))
    of_checks = f"a dict with names of its checks ({', '.join(checks) or 'it has none'})"
    allowed: dict[str, tuple[Callable[[Any], bool], str]] = {
        "path": (lambda path: isinstance(path, str) and path != "", "text"),
        "card_numbers": (_SEARCHES.__contains__, f"one of {', '.join(_SEARCHES)}"),
        "text": (lambda pattern: isinstance(pattern, str), "a pattern, as text"),
        "parse": (callable, "a function of a series of texts"),
        "codes": (_is_texts, "a list of texts"),
        "note": (lambda note: isinstance(note, str), "text"),
        "personal": (lambda relation: isinstance(relation, str), "text"),
        "checks": (
            lambda texts: _is_of_checks(texts, checks) and all(map(_is_check_text, texts.values())),
            f"{of_checks} and CheckText",
        ),
        "only_where": (lambda where: _is_of_checks(where, checks, pl.Expr), of_checks),
        "text_problems": (lambda texts: _is_of_checks(texts, checks, pl.Expr), of_checks),
    }
    for option, (is_allowed, kind) in allowed.items():
        if options.get(option) is not None and not is_allowed(options[option]):
            yield f"the column {name!r} has metadata {option!r} that must be {kind}"
    for option in ("text", "parse"):
        if options.get(option) is not None and isinstance(column.dtype, _TEXT):
            yield (
                f"the column {name!r} is text, and has metadata {option!r} for columns that are"
                " parsed: write regex= or check="
            )


def _is_texts(values: Any) -> bool:
    return (
        isinstance(values, Iterable)
        and not isinstance(values, str)
        and all(isinstance(value, str) for value in values)
    )


def _is_check_text(text: Any) -> bool:
    return all(isinstance(getattr(text, name, None), str) for name in ("broken", "rule"))


def _is_of_checks(values: Any, checks: Mapping[str, Any], kind: type = object) -> bool:
    return (
        isinstance(values, Mapping)
        and values.keys() <= checks.keys()
        and all(isinstance(value, kind) for value in values.values())
    )


def faults_of_rules(columns: Mapping[str, dy.Column], forms: Mapping[str, str]) -> Iterator[str]:
    """A phrase for each rule that cannot be applied to every row.

    Args:
        columns: by name, of types that are landed.
        forms: the pattern of the text of each column that is parsed.
    """
    rows = _sample(columns)
    for name, pattern in forms.items():
        form = pl.col(f"sent.{name}").str.contains(pattern)
        yield from _trial(rows, form, f"the form of {name!r}", _REMEDY_OF_PATTERNS)
    for name, column in columns.items():
        yield from _faults_of_names(name, column)
        for what, rule, remedy in _rules(name, column):
            yield from _trial(rows, rule, what, remedy)
        yield from _faults_of_parse(name, (column.metadata or {}).get("parse"))
    checks = {
        _title(name, check): rule
        for name, column in columns.items()
        for check, rule in checks_of(column, pl.col(name)).items()
    }
    if checks:
        yield from _faults_of_groups(rows, checks)


def _title(name: str, rule: str) -> str:
    return f"the rule {rule!r} of the column {name!r}"


def _rules(name: str, column: dy.Column) -> Iterator[tuple[str, pl.Expr, str]]:
    """Each expression of a column, with its title and the remedy if it raises an error."""
    for rule, expression in column.validation_rules(pl.col(name)).items():
        remedy = "give it a bound of the column's type"
        if rule == "regex":
            remedy = _REMEDY_OF_PATTERNS
        elif rule.startswith("check"):
            remedy = _REMEDY_OF_CHECKS
        yield _title(name, problem_of(rule)), expression, remedy
    for option in ("only_where", "text_problems"):
        for check, condition in ((column.metadata or {}).get(option) or {}).items():
            yield f"the {option} {check!r} of the column {name!r}", condition, _REMEDY_OF_CHECKS


def _faults_of_names(name: str, column: dy.Column) -> Iterator[str]:
    role = (column.metadata or {}).get("role")
    reserved = _RESERVED[None] | (_RESERVED.get(role) or frozenset())
    for check in checks_of(column, pl.col(name)):
        if check in reserved or not _NAME_OF_CHECK.fullmatch(check):
            yield (
                f"the column {name!r} has a check {check!r}: give it another name, of letters,"
                f" digits and underscores, and none of {', '.join(sorted(reserved))}"
            )
    codes = [*((column.metadata or {}).get("codes") or ())]
    if isinstance(column, dy.Enum):
        codes += column.categories
    if shows_card_number(pl.Series(codes, dtype=pl.String), whole=False).any():
        yield f"the column {name!r} has a code that looks like a card number: leave it out"
    conditions = (column.metadata or {}).get("only_where") or {}
    for check, condition in conditions.items():
        if len({*condition.meta.root_names()}) != 1:
            yield (
                f"the only_where {check!r} of the column {name!r} must be an expression of one"
                " column"
            )


def _sample(columns: Mapping[str, dy.Column]) -> pl.DataFrame:
    """Rows with values of the columns, and texts as `sent.` and the name."""
    series: list[pl.Series] = []
    for at, (name, column) in enumerate(columns.items()):
        kind = pl.String() if isinstance(column.dtype, _TEXT) else column.dtype
        values = _VALUES.get(type(kind), _NUMBERS)
        # Rows that are equal in one column differ in another.
        chosen = [values[(row + row // len(values) * at) % len(values)] for row in range(_ROWS)]
        series.append(pl.Series(name, chosen).cast(kind, strict=False))
        series.append(pl.Series(f"sent.{name}", _VALUES[pl.String] * (_ROWS // len(values))))
    return pl.DataFrame(series)


def _trial(rows: pl.DataFrame, rule: pl.Expr, what: str, remedy: str) -> Iterator[str]:
    try:
        found = rows.select(rule.alias("found"))["found"]
    except pl.exceptions.ColumnNotFoundError:
        yield f"{what} names a column that the contract does not have"
    except Exception as error:
        yield f"{what} cannot be applied, it raises {type(error).__name__}: {remedy}"
    else:
        if found.dtype not in {pl.Boolean(), pl.Null()}:
            yield f"{what} gives {found.dtype}: let it give true or false"


def _faults_of_parse(name: str, parse: Callable[[pl.Series], Any] | None) -> Iterator[str]:
    """A function must take texts that are all null, as of a page without values."""
    if parse is None:
        return
    what = f"the parse of the column {name!r}"
    nulls = pl.Series(name, [None, None], pl.String)
    try:
        found = parse(nulls)
    except Exception as error:
        yield f"{what} raises {type(error).__name__} for null: let it give null"
    else:
        if not isinstance(found, pl.Series) or len(found) != len(nulls):
            yield f"{what} must give a series of as many values"


def _faults_of_groups(rows: pl.DataFrame, checks: Mapping[str, pl.Expr]) -> Iterator[str]:
    """Rules whose result for a row depends on other rows."""
    rules = [rule.alias(what) for what, rule in checks.items()]
    together = pl.concat([rows] * _COPIES).with_columns(rules)
    alone = pl.concat([row.with_columns(rules) for row in rows.iter_slices(1)])
    for what in checks:
        if not together[what].equals(pl.concat([alone[what]] * _COPIES)):
            yield (
                f"{what} compares rows with each other, as is_unique, sum and over do, and rows"
                " stream: let it look at one row"
            )
