"""The assets as Dagster's catalogue shows them: descriptions, owners, tags, columns.

The columns and their rules come from the contract.
"""

from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from txn_platform.contract.card_forms import TOKEN_COLUMN
from txn_platform.contract.catalogue import constraints_of, personal_data
from txn_platform.contract.model import EXTRA_FIELDS, Contract
from txn_platform.defs.checks import PUBLISHED, QUARANTINED, RAW, VALIDATED
from txn_platform.defs.feed_keys import key_of
from txn_platform.feeds import Feed

if TYPE_CHECKING:
    import pyarrow as pa

OWNERS: Final = ("team:data-platform",)
_ZONE: Final = "zone"
_PII: Final = "pii"
_CLEAR: Final = "clear"
_PROTECTED: Final = "protected"
_LINEAGE: Final = "dagster/column_lineage"

_DESCRIPTIONS: Final = {
    RAW: """
One hour of transactions as the source sent it. Every value is text. Nothing is parsed and nothing
is dropped; fields that the contract does not know are in `extra_fields`.

Use it as evidence, and to validate an hour again. Rows, amounts and ids were compared with the
source's control totals before the file was written.{in_clear} `txn expire` removes old hours.
""",
    VALIDATED: """
The rows of an hour that hold the contract: typed, in order of time and id, each id once.{protected}

`s3_parquet_transactions` publishes these rows once they are proven. Read that asset instead.
""",
    QUARANTINED: """
The rows of an hour that break the contract: as they were sent, each with every reason as
`column.problem`. A row that was landed is in exactly one of validated and quarantined.

`txn quarantine` shows the reasons with masked examples. When the source has fixed its data,
materialize the hour again: the rows move over.{in_clear} `txn expire` removes old hours.
""",
    PUBLISHED: """
One hour of transactions for everyone who reads them: typed, in order of time and id, each id once.
{protected} Build your own assets on this one.

An hour is visible whole or not at all. Before it is written, its file is read back and compared
with the contract and with the source's control totals. Materializing an hour again gives the same
bytes, or replaces it whole when the source has changed it.
""",
}
# Of contracts with a card.
_IN_CLEAR: Final = " **Card numbers stand in clear:** treat it as in scope of PCI DSS."
_REPLACED: Final = " A card number is replaced by a mask and a token that joins without the number."
_TAGS: Final = {
    RAW: {_ZONE: "raw", _PII: _CLEAR},
    VALIDATED: {_ZONE: "validated", _PII: _PROTECTED},
    QUARANTINED: {_ZONE: "quarantine", _PII: _CLEAR},
    PUBLISHED: {_ZONE: "published", _PII: _PROTECTED},
}
_KINDS: Final = {
    RAW: {"http", "parquet"},
    VALIDATED: {"polars", "parquet"},
    QUARANTINED: {"polars", "parquet"},
    PUBLISHED: {"s3", "parquet"},
}
# The asset that the columns of an asset come from.
_SOURCES: Final = {VALIDATED: RAW, QUARANTINED: RAW, PUBLISHED: VALIDATED}


def _schema_of(asset: str, contract: Contract) -> "pa.Schema":
    return {
        RAW: contract.raw_schema,
        VALIDATED: contract.published_schema,
        QUARANTINED: contract.quarantine_schema,
        PUBLISHED: contract.published_schema,
    }[asset]


def code_version(contract: Contract) -> str:
    """Changes with the contract, so that Dagster shows which windows an older contract made."""
    return f"contract-{contract.version}"


def asset_out(asset: str, feed: Feed, metadata: dict[str, Any] | None = None) -> dg.AssetOut:
    """The output of an asset of the platform, kept by the IO manager `lake`.

    Args:
        asset: its name.
        feed: that it is of.
        metadata: more than the catalogue's.
    """
    contract = feed.contract
    cards = contract.card is not None
    description = _DESCRIPTIONS[asset].format(
        in_clear=_IN_CLEAR if cards else "", protected=_REPLACED if cards else ""
    )
    return dg.AssetOut(
        key=key_of(asset, feed),
        io_manager_key="lake",
        # Dagster allows a check without a result only where a subset can be selected.
        is_required=False,
        description=description.strip(),
        owners=list(OWNERS),
        tags=_TAGS[asset],
        kinds=_KINDS[asset],
        code_version=code_version(contract),
        metadata={
            "dagster/column_schema": dg.TableSchema(
                columns=[_column(asset, field, contract) for field in _schema_of(asset, contract)]
            ),
            **lineage_metadata(asset, feed),
            **(metadata or {}),
        },
    )


def lineage_metadata(asset: str, feed: Feed) -> dict[str, Any]:
    """The columns that each column comes from, for a definition or a materialization."""
    deps = _dependencies(asset, feed)
    return {_LINEAGE: dg.TableColumnLineage(deps)} if deps else {}


def _dependencies(asset: str, feed: Feed) -> dict[str, list[dg.TableColumnDep]]:
    contract = feed.contract
    source = _SOURCES.get(asset)
    if source is None:
        return {}
    origins = {
        field.name: _origins(asset, field.name, contract) for field in _schema_of(asset, contract)
    }
    return {
        name: [
            dg.TableColumnDep(asset_key=key_of(source, feed), column_name=each) for each in from_
        ]
        for name, from_ in origins.items()
        if from_
    }


def _origins(asset: str, column: str, contract: Contract) -> list[str]:
    """The columns of the asset before that a column is made from."""
    if asset == PUBLISHED or column in contract.raw_schema.names:
        return [column]
    if column == TOKEN_COLUMN and contract.card is not None:
        return [contract.card]
    # Every rule may give a row a reason; the other two say when and by what it was validated.
    return [*contract.names, EXTRA_FIELDS] if column == "reasons" else []


def _column(asset: str, field: "pa.Field[Any]", contract: Contract) -> dg.TableColumn:
    as_sent = asset in {RAW, QUARANTINED}
    published = not as_sent
    return dg.TableColumn(
        field.name,
        str(field.type),
        description=_described(asset, field, contract),
        constraints=dg.TableColumnConstraints(
            nullable=field.nullable,
            unique=published and field.name == contract.id,
            other=constraints_of(contract, field.name) if published else [],
        ),
        tags=_column_tags(field.name, contract, as_sent=as_sent),
    )


def _described(asset: str, field: "pa.Field[Any]", contract: Contract) -> str:
    """The contract's description, with the origin, which the open-source UI shows nowhere else."""
    description = (field.metadata or {})[b"description"].decode()
    origins = _origins(asset, field.name, contract) if asset in _SOURCES else []
    if len(origins) != 1:
        return description
    return f"{description}. From {origins[0]} of {_SOURCES[asset]}"


def _column_tags(column: str, contract: Contract, *, as_sent: bool) -> dict[str, str]:
    if as_sent and column in {contract.card, EXTRA_FIELDS}:
        return {_PII: _CLEAR}
    known = column in contract.names or column == TOKEN_COLUMN
    personal = personal_data(contract, column) if known else None
    return {_PII: personal} if personal else {}
