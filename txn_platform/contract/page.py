"""The page `docs/contract.md`, made from the contract and printed by this module.

This module has the layout and the text around it. Columns, types and rules come from `schema`,
reasons from `reasons`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from txn_platform.contract.card_forms import CARD_IN_CLEAR, CARD_MASKS, TOKEN_COLUMN
from txn_platform.contract.card_numbers import false_share
from txn_platform.contract.reasons import reasons
from txn_platform.contract.schema import TRANSACTIONS

if TYPE_CHECKING:
    import pyarrow as pa

    from txn_platform.contract.model import Contract

_CARDS = """\
The form of `{card}` follows the [settings](security.md#tokens-and-masks):

| setting | form | meaning |
| --- | --- | --- |
{card_forms}

"""

_PAGE = """\
# The contract, version {version}

Made from `{module}` by `python -m txn_platform.contract.page`: change it
there. In a lake, `datapackage.json` and `contract.odcs.yaml` say the same
[to other tools](reading.md#descriptors).

## Published columns

The columns of `validated_transactions` and `s3_parquet_transactions`.

{published}

{cards}## Sent columns

{sent} Every value is validated as text,
before it is parsed. Unknown fields are kept, and no rule applies to them.

## Why a row is quarantined

A row is published if it breaks no rule. Otherwise it is kept as sent, with every reason. An absent
or malformed value has no other reason.

{notes}\
A card number in text is found in any spelling: in digits of every script, with any separators but
letters. An identifier is refused only if it is a card number as a whole, because numbers look like
card numbers by chance: {false_15:.2%} of random ids of 15 digits, {false_16:.1%} of those of 16.

| reason | the value is |
| --- | --- |
{reasons}

## Columns kept as sent

`raw_transactions`:

{raw}

`quarantined_transactions`:

{quarantined}
"""


def page(contract: Contract = TRANSACTIONS) -> str:
    """The page of a contract, Markdown."""
    notes = [note for name in contract.names if (note := contract.option(name, "note"))]
    return _PAGE.format(
        version=contract.version,
        module=contract.origin,
        published=_columns(contract.published_schema),
        cards=_cards(contract),
        sent=f"The same without `{TOKEN_COLUMN}`, with the card number in clear."
        if contract.card
        else "The same as text.",
        notes="".join(f"{note}\n" for note in notes),
        false_15=false_share(15),
        false_16=false_share(16),
        reasons="\n".join(
            f"| `{reason}` | {meaning} |" for reason, meaning in reasons(contract).items()
        ),
        raw=_columns(contract.raw_schema),
        quarantined=_columns(contract.quarantine_schema),
    )


def _cards(contract: Contract) -> str:
    if contract.card is None:
        return ""
    return _CARDS.format(
        card=contract.card,
        card_forms="\n".join(
            f"| `{setting}` | `{form.pattern}` | {form.description} |"
            for setting, form in (
                *((f"TXN_CARD_MASK={mask}", form) for mask, form in CARD_MASKS.items()),
                ("TXN_CARD_POLICY=clear", CARD_IN_CLEAR),
            )
        ),
    )


def _columns(schema: pa.Schema) -> str:
    rows = ["| column | type | null | meaning |", "| --- | --- | --- | --- |"]
    for field in schema:
        meaning = (field.metadata or {})[b"description"].decode()
        null = "yes" if field.nullable else "no"
        rows.append(f"| `{field.name}` | {field.type} | {null} | {meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - the page is this program's output
