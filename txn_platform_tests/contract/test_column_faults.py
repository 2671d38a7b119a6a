"""Options and rules of one's own that cannot be applied to rows are refused with a sentence."""

from typing import Any

import dataframely as dy
import polars as pl
import pytest

from txn_platform.contract.columns import code, decimal, flag, rfc3339, text
from txn_platform.contract.model import CheckText, Contract
from txn_platform.errors import UserError


def _schema(**columns: Any) -> type[dy.Schema]:
    base = {"ref": text("The id", role="id"), "seen": rfc3339("The time", role="time")}
    return type("Own", (dy.Schema,), {**base, **columns})


def _checked(name: str, check: Any, **metadata: Any) -> dict[str, dy.Column]:
    return {"a": dy.Int64(check={name: check}, metadata=metadata)}


@pytest.mark.parametrize(
    "given",
    [
        {"name": 3},
        {"name": " "},
        {"name": "a\nb"},
        {"name": "支払"},
        {"version": 1},
        {"version": None},
        {"version": "1\n"},
        {"schema": {"ref": text("", role="id")}},
        {"schema": object},
        {"schema": None},
        {"published": {"a": 1}},
        {"schema": _schema(columns=dy.Int64())},
    ],
)
def test_a_contract_is_a_name_a_version_and_classes(given: dict[str, Any]) -> None:
    arguments: Any = {"name": "own", "version": "1", "schema": _schema()} | given
    with pytest.raises(UserError, match=r"^the contract .* cannot be used: .* (must be|give it)"):
        Contract(**arguments)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": dy.String(metadata={"role": ["id"]})}, r"the role \['id'\]: choose from"),
        ({"a": dy.String(metadata={"path": 3})}, "'path' that must be text"),
        ({"a": dy.String(metadata={"path": ""})}, "'path' that must be text"),
        ({"a": dy.String(metadata={"card_numbers": "no"})}, "one of within, whole, none"),
        ({"a": dy.Int64(metadata={"text": 3})}, "'text' that must be a pattern"),
        ({"a": dy.Int64(metadata={"parse": 3})}, "'parse' that must be a function"),
        ({"a": dy.String(metadata={"text": "^x$"})}, "is text, and has metadata 'text'"),
        ({"a": dy.String(metadata={"codes": "abc"})}, "'codes' that must be a list of texts"),
        ({"a": dy.String(metadata={"note": 3})}, "'note' that must be text"),
        (_checked("c", lambda a: a > 1, checks={"c": "x"}), r"its checks \(c\) and CheckText"),
        ({"a": dy.Int64(metadata={"checks": {"c": CheckText("", "")}})}, r"\(it has none\)"),
        ({"a": dy.Int64(metadata={"text_problems": {"c": pl.lit(1)}})}, r"\(it has none\)"),
        ({"a": dy.Int64(description=3)}, "description that is no text"),  # type: ignore[arg-type]
        ({"a": decimal("", precision=39)}, "precision of 1 to 38"),
        ({"a": decimal("", precision=2, scale=4)}, "and a scale up to it"),
    ],
)
def test_an_option_without_a_meaning_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"'own' cannot be used: .*'a'.*{message}"):
        Contract("own", "1", _schema(**columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": dy.String(regex="^(?!x)")}, "'regex' .*'a' .*as for Rust"),
        ({"a": dy.Int64(metadata={"text": "("})}, "the form of 'a' .*as for Rust"),
        (_checked("c", lambda a: a > pl.col("nope")), "column that the contract does not have"),
        (_checked("c", lambda a: a + 1), "gives Int64: let it give true or false"),
        (_checked("c", lambda a: a.str.contains("x")), "raises InvalidOperationError: let it"),
        (_checked("c", lambda a: a.is_unique()), "'c' .*'a' compares rows with each other"),
        (_checked("c", lambda a: a.sum() < 10), "compares rows"),
        (_checked("c", lambda _: pl.len() < 1000), "compares rows"),
        (_checked("c", lambda a: a >= a.shift(1)), "compares rows"),
        (_checked("c", lambda a: a.max().over("ref") < 2), "compares rows"),
        (_checked("card_number", lambda a: a > 1), "give it another name"),
        (_checked("a.b", lambda a: a > 1), "give it another name"),
        (
            {"ref": dy.String(check={"duplicate": lambda a: a != ""}, metadata={"role": "id"})},
            "none of card_number, conflict, duplicate",
        ),
        (
            _checked("c", lambda a: a > 1, only_where={"c": pl.col("a") > pl.col("ref")}),
            "expression of one column",
        ),
        ({"a": dy.Enum(["4111111111111111"])}, "looks like a card number"),
        ({"a": code("", ["4111111111111111"])}, "looks like a card number"),
        (
            {"a": dy.Int64(metadata={"text": "^1$", "parse": lambda texts: texts.str.none()})},
            "the parse of .*'a' raises AttributeError for null",
        ),
        (
            {"a": dy.Int64(metadata={"text": "^1$", "parse": lambda _: 1})},
            "the parse of .*'a' must give a series",
        ),
    ],
)
def test_a_rule_that_cannot_be_applied_to_each_row_is_refused(
    columns: dict[str, Any], message: str
) -> None:
    contract = Contract("own", "1", _schema(**columns))
    with pytest.raises(UserError, match=rf"^the contract 'own' cannot be used: .*{message}"):
        contract.require_rules_of_rows()


def test_rules_that_look_at_one_row_are_accepted() -> None:
    columns = {
        "a": dy.Int64(check={"even": lambda a: a % 2 == 0}, min=0),
        "b": dy.Int64(nullable=True, check=[lambda b: b >= pl.col("a"), lambda b: b < 9]),
        "c": dy.String(regex="^[a-z]$", check=lambda c: c.cast(pl.Int64, strict=False) > 3),
        "d": code("", ["a", "b"]),
        "f": dy.Categorical(pl.Categories("own")),
        "e": flag("", true="1", false="0"),
    }
    contract = Contract("own", "1", _schema(**columns))
    contract.require_rules_of_rows()
    assert [*contract.codes] == ["d"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: code("state", "succeeded"), "the codes of 'state' must be a list of texts"),
        (lambda: code("state", [1, 2]), "the codes of 'state'"),  # type: ignore[list-item]
        (lambda: code("state", []), "the codes of 'state'"),
        (lambda: flag("paid", true="Y", false="Y"), "of 'paid' must be two different texts"),
        (lambda: flag("paid", true=1, false=0), "of 'paid' must be two"),  # type: ignore[arg-type]
        (lambda: decimal("sum", min=0.5), "a bound of 'sum' is not exact"),  # type: ignore[arg-type]
    ],
)
def test_a_helper_refuses_what_is_no_text_or_no_exact_number(made: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made()
