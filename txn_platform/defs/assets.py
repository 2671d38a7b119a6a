"""The assets: a window is landed, validated and published, in this order.

Each step stages its files, checks them, and then passes them to the IO manager. The rules are in
`contract`, the work on rows is in `rows`, and the results of checks are in `checks`.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from txn_platform.contract.card_forms import CARD_MASKS, DEFAULT_MASK, CardMask, card_form
from txn_platform.contract.model import Contract
from txn_platform.defs import checks
from txn_platform.defs.beta import beta_allowed
from txn_platform.defs.catalogue import asset_out, lineage_metadata
from txn_platform.defs.failures import failing_for_users
from txn_platform.defs.feed_keys import key_of
from txn_platform.defs.io_managers import CLEAR_CARDS, IN_DELTA, StagedRows
from txn_platform.defs.partitions import FIRST_HOUR, HOURS, window_of
from txn_platform.defs.publications import (
    SOURCE_TOTALS_NOTE,
    landing_metadata,
    latest_landing,
    publication_metadata,
)
from txn_platform.defs.resources import (
    CardKeyResource,
    FeedSource,
    GeneratorResource,
    LakeResource,
    QuarantineResource,
    source_key,
)
from txn_platform.defs.window_metadata import (
    card_metadata,
    figures_metadata,
    quarantine_metadata,
    step_metadata,
)
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.lake.base import Lake, LakeFile
from txn_platform.lake.descriptors import write_descriptors
from txn_platform.lake.footers import (
    CARD_KEY,
    CARD_POLICY,
    NO_CARDS,
    PublishedNotes,
    mask_of_footer,
)
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import require_first_hour
from txn_platform.lake.parquet import Encoding, open_parquet, read_batches
from txn_platform.lake.quarantine import LANDED_DIGEST
from txn_platform.lake.staging import Staged
from txn_platform.rows.duplicates import RepeatedIds
from txn_platform.rows.ordering import in_order
from txn_platform.rows.proof import prove_published
from txn_platform.rows.protection import CardProtector
from txn_platform.rows.reason_tally import rows_by_reason
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.window import validate_window
from txn_platform.runbook import Section
from txn_platform.windows import Window

# A note in the landed file: whether the source stated the totals. If not, they were counted.
_TOTALS_STATED: Final = "totals_stated"
# A note in the landed file: whether an id may be in it twice. If not, nothing looks for duplicates.
_REPEATS_SUSPECTED: Final = "repeats_suspected"


GROUP: Final = "transactions"


def _landed_encoding(contract: Contract) -> Encoding:
    return Encoding(
        compression="zstd",
        level=1,
        dictionary_encoded=contract.dictionary_encoded,
        delta_encoded=("position", contract.id, contract.time),
    )


def _quarantined_encoding(contract: Contract) -> Encoding:
    return Encoding(
        compression="zstd",
        level=1,
        row_group_rows=1 << 17,
        dictionary_encoded=contract.dictionary_encoded,
    )


def _readers_encoding(contract: Contract) -> Encoding:
    """Only plain values and dictionaries.

    Fastparquet, Velox, StarRocks and older Spark and Iceberg cannot read delta encodings.
    """
    return Encoding(
        compression="zstd",
        level=1,
        sorted_by=contract.order,
        dictionary_encoded=contract.dictionary_encoded,
        plain=(contract.id, contract.time),
    )


class LandingConfig(dg.Config):
    """Options of one run's landing."""

    allow_empty: bool = False
    """Whether a window may be empty although the lake has rows of it, for a source that has deleted
    them."""


def _landing(feed: Feed) -> dg.AssetsDefinition:
    contract = feed.contract

    # Dagster allows a check without a result only where a subset can be selected.
    @dg.multi_asset(
        outs={checks.RAW: asset_out(checks.RAW, feed, {CLEAR_CARDS: True})},
        name=feed.named(checks.RAW),
        partitions_def=HOURS,
        group_name=feed.named(GROUP),
        check_specs=checks.specs_of(checks.RAW, feed),
        can_subset=True,
        # The source's name differs by feed, so none can be an argument.
        required_resource_keys={source_key(feed), "store", "card_key"},
    )
    def raw_transactions(context: dg.AssetExecutionContext, config: LandingConfig) -> Iterator[Any]:
        """Land a window, and compare it with the source's control totals."""
        resource: GeneratorResource | FeedSource = getattr(context.resources, source_key(feed))
        store: LakeResource = context.resources.store
        card_key: CardKeyResource = context.resources.card_key
        started = time.monotonic()
        window = window_of(context)
        with failing_for_users(context.get_step_execution_context()):
            if contract.card is not None:
                # Without a key nothing can be published: fail before card numbers are landed.
                card_key.protector(feed)
            require_first_hour(store.lake, feed.asset(checks.PUBLISHED), FIRST_HOUR)
            source = resource.source(contract)
            watermark = source.require_complete(window)
            results = [checks.drift(source.drift(window), contract)]
            recorded = context.selected_asset_check_keys
            yield from checks.require(results, recorded)
            as_of = datetime.now(UTC)
            landed = ControlTotals()
            repeated = RepeatedIds(contract)
            with store.lake.stage(contract.raw_schema, _landed_encoding(contract)) as writer:
                for rows in source.batches(window, as_of):
                    hashes = repeated.add(rows.column(contract.id))
                    landed += ControlTotals.of(rows, hashes, contract)
                    writer.write(rows)
                stated = source.control_totals(window, as_of)
                if not landed.rows and stated is None and not config.allow_empty:
                    _require_no_rows(store.lake, window, feed)
                writer.annotate(
                    {
                        SOURCE_TOTALS_NOTE: (stated or landed).to_json(),
                        _TOTALS_STATED: json.dumps(stated is not None),
                        _REPEATS_SUSPECTED: json.dumps(repeated.suspected),
                    }
                )
                staged = writer.finish()
                results += checks.landed(landed, stated)
                yield from checks.require(results, recorded)
                if key_of(checks.RAW, feed) in context.selected_asset_keys:
                    yield _output(
                        checks.RAW,
                        staged,
                        {
                            **landing_metadata(as_of, watermark),
                            **step_metadata(landed.rows, time.monotonic() - started),
                        },
                    )
                yield from checks.recorded(results, recorded)

    return raw_transactions


def _require_no_rows(lake: Lake, window: Window, feed: Feed) -> None:
    """Raise a `UserError` if the lake has rows of a window for which the source now sends none."""
    for asset, done in ((checks.PUBLISHED, "published"), (checks.RAW, "landed")):
        key = object_key(feed.asset(asset), window)
        if lake.find(key) is None:
            continue
        rows = lake.open(key).metadata.num_rows
        if rows:
            raise UserError(
                f"{window.partition_key} came back without a row, and {rows:,} were {done} before:"
                " nothing is changed. Look at what the source sends; if it has taken them back, run"
                " the window with allow_empty: true in the configuration of"
                f" {feed.named(checks.RAW)} (txn run --allow-empty)",
                Section.WINDOW_EMPTY,
            )


class ValidationConfig(dg.Config):
    """Options of one run's validation."""

    max_quarantine: float | None = None
    """The largest share of quarantined rows, 0 to 1; TXN_MAX_QUARANTINE when left out."""

    max_quarantine_by_reason: dict[str, float] = Field(default_factory=dict[str, float])
    """The same for single reasons, as `{"currency.unknown": 0.001}`."""


def _validation(feed: Feed) -> dg.AssetsDefinition:
    contract = feed.contract

    @dg.multi_asset(
        outs={
            checks.VALIDATED: asset_out(checks.VALIDATED, feed),
            checks.QUARANTINED: asset_out(checks.QUARANTINED, feed, {CLEAR_CARDS: True}),
        },
        ins={checks.RAW: dg.AssetIn(key=key_of(checks.RAW, feed), input_manager_key="lake")},
        name=feed.named("validation"),
        partitions_def=HOURS,
        group_name=feed.named(GROUP),
        check_specs=checks.specs_of(checks.VALIDATED, feed),
        can_subset=True,
    )
    def validation(  # noqa: PLR0917 - Dagster passes inputs and resources by name
        context: dg.AssetExecutionContext,
        config: ValidationConfig,
        raw_transactions: LakeFile,
        store: LakeResource,
        card_key: CardKeyResource,
        quarantine: QuarantineResource,
    ) -> Iterator[Any]:
        """Validate every row of a landed window; both outputs come from one pass over it."""
        started = time.monotonic()
        window = window_of(context)
        with failing_for_users(context.get_step_execution_context()), ExitStack() as staged:
            protector, policy = None, "token"
            if contract.card is not None:
                protector, policy = card_key.protector(feed), card_key.policy
            allowed = config.max_quarantine
            if allowed is None:
                allowed = quarantine.largest_share()
            raw, digest = raw_transactions.parquet_with_digest(contract.dictionary_encoded)
            schema, encoding = _published_schema(contract, protector), _readers_encoding(contract)
            validated = staged.enter_context(store.lake.stage(schema, encoding))
            quarantined = staged.enter_context(
                store.lake.stage(contract.quarantine_schema, _quarantined_encoding(contract))
            )

            def write(conforming: pa.RecordBatch, rest: pa.RecordBatch) -> None:
                validated.write(conforming)
                quarantined.write(rest)

            found = validate_window(
                partial(read_batches, raw),
                window,
                protector,
                write,
                card_policy=policy,
                may_repeat=json.loads(_note(raw, _REPEATS_SUSPECTED)),
                contract=contract,
            )
            landed = _stated(raw)
            notes = _notes(landed, policy, protector, contract)
            validated.annotate(notes.to_footer())
            quarantined.annotate({LANDED_DIGEST: digest})
            kept = validated.finish()
            if not found.in_order:
                ordered = staged.enter_context(store.lake.stage(schema, encoding))
                with open_parquet(kept.path) as file:
                    for rows in in_order(file, window, contract):
                        ordered.write(rows)
                ordered.annotate(notes.to_footer())
                kept = ordered.finish()
            rest = quarantined.finish()
            step = step_metadata(landed.rows, time.monotonic() - started)
            outputs = {
                checks.VALIDATED: _output(
                    checks.VALIDATED,
                    kept,
                    {
                        **checks.totals_metadata(found.validated),
                        **card_metadata(notes.card_policy, notes.card_key, notes.card_mask),
                        **step,
                        **lineage_metadata(checks.VALIDATED, feed),
                    },
                ),
                checks.QUARANTINED: _output(
                    checks.QUARANTINED,
                    rest,
                    {
                        **quarantine_metadata(
                            contract,
                            {name: reason.rows for name, reason in found.reasons.items()},
                            found.quarantined.rows,
                            landed.rows,
                        ),
                        "contract_version": contract.version,
                        **step,
                        **lineage_metadata(checks.QUARANTINED, feed),
                    },
                ),
            }
            results = checks.validated(
                landed,
                found,
                contract,
                allowed=allowed,
                allowed_by_reason=config.max_quarantine_by_reason,
            )
            recorded = context.selected_asset_check_keys
            yield from checks.require(results, recorded)
            for name, output in outputs.items():
                if key_of(name, feed) in context.selected_asset_keys:
                    yield output
            yield from checks.recorded(results, recorded)

    return validation


def _published_schema(contract: Contract, protector: CardProtector | None) -> pa.Schema:
    """The schema of published files, with the description of the mask."""
    mask = DEFAULT_MASK if protector is None else protector.mask
    described = {"description": CARD_MASKS[mask].description}
    return contract.with_card_metadata(contract.published_schema, described)


def _notes(
    landed: ControlTotals, policy: str, protector: CardProtector | None, contract: Contract
) -> PublishedNotes:
    if protector is None:
        return PublishedNotes(landed, NO_CARDS, "", contract_version=contract.version)
    return PublishedNotes(
        landed, policy, protector.key_fingerprint, protector.mask, contract.version
    )


def _publication(feed: Feed) -> dg.AssetsDefinition:
    contract = feed.contract

    @dg.multi_asset(
        outs={checks.PUBLISHED: asset_out(checks.PUBLISHED, feed, {IN_DELTA: True})},
        ins={
            name: dg.AssetIn(key=key_of(name, feed), input_manager_key="lake")
            for name in (checks.RAW, checks.VALIDATED, checks.QUARANTINED)
        },
        name=feed.named(checks.PUBLISHED),
        partitions_def=HOURS,
        group_name=feed.named(GROUP),
        check_specs=checks.specs_of(checks.PUBLISHED, feed),
        can_subset=True,
    )
    def s3_parquet_transactions(
        context: dg.AssetExecutionContext,
        raw_transactions: LakeFile,
        validated_transactions: LakeFile,
        quarantined_transactions: LakeFile,
        store: LakeResource,
    ) -> Iterator[Any]:
        """Prove a validated window from its file, and publish it."""
        started = time.monotonic()
        with failing_for_users(context.get_step_execution_context()):
            raw = raw_transactions.parquet()
            landed = _stated(raw)
            recorded = context.selected_asset_check_keys
            quarantined = ControlTotals()
            reasons: Counter[str] = Counter()
            for rows in read_batches(
                quarantined_transactions.parquet(contract.dictionary_encoded),
                [*contract.total_columns, "reasons"],
            ):
                quarantined += ControlTotals.of(rows, contract=contract)
                reasons.update({name: len(found) for name, found in rows_by_reason(rows).items()})
            with store.lake.stage(contract.published_schema, _readers_encoding(contract)) as writer:
                # The validated file already has the published layout, so a copy of it is proven.
                with open_parquet(
                    writer.copy(validated_transactions.copy_to), contract.dictionary_encoded
                ) as file:
                    policy = _note(file, CARD_POLICY)
                    key = "" if policy == NO_CARDS else _note(file, CARD_KEY)
                    mask = _mask(file)
                    proof = prove_published(
                        file.metadata.schema.to_arrow_schema(),
                        partial(read_batches, file),
                        landed - quarantined,
                        clear_cards=policy == "clear",
                        card_mask=mask,
                        contract=contract,
                    )
                results = checks.published(
                    proof, policy, totals_stated=_says_totals_were_stated(raw) or False
                )
                yield from checks.require(results, recorded)
                staged = writer.finish()
                by_reason = dict(reasons.most_common())
                metadata = {
                    **checks.totals_metadata(proof.totals),
                    **figures_metadata(proof.figures, by_reason),
                    **quarantine_metadata(contract, by_reason, quarantined.rows, landed.rows),
                    **step_metadata(proof.totals.rows, time.monotonic() - started),
                    **lineage_metadata(checks.PUBLISHED, feed),
                    **card_metadata(policy, key, mask),
                    **_recorded(raw, latest_landing(context.instance, context.partition_key, feed)),
                }
                if key_of(checks.PUBLISHED, feed) in context.selected_asset_keys:
                    yield _output(checks.PUBLISHED, StagedRows.of(staged, feed), metadata)
                    write_descriptors(store.lake, card_form(policy, mask), contract, feed.prefix)
                yield from checks.recorded(results, recorded)

    return s3_parquet_transactions


def _output(asset: str, staged: Staged, metadata: dict[str, Any]) -> dg.Output[Staged]:
    """A staged file as the output of an asset.

    The same bytes have the same data version. So assets downstream see whether a window changed.
    """
    with beta_allowed():
        return dg.Output(
            staged,
            output_name=asset,
            metadata=metadata,
            data_version=dg.DataVersion(staged.sha256),
        )


def _note(file: pq.ParquetFile, name: str) -> str:
    """A note that the step that wrote the file left in its footer."""
    notes = file.metadata.metadata or {}
    if name.encode() not in notes:
        raise UserError(
            f"a file of this window was made by an earlier version, for it lacks {name!r}:"
            " materialize the whole window again",
            Section.INPUT_MISSING,
        )
    return notes[name.encode()].decode()


def _mask(file: pq.ParquetFile) -> CardMask:
    """The mask of a validated file's card numbers."""
    try:
        return mask_of_footer(file.metadata.metadata)
    except ValueError as error:
        raise UserError(
            f"a file of this window was made by another version ({error}): materialize the whole"
            " window again",
            Section.INPUT_MISSING,
        ) from None


def _recorded(raw: pq.ParquetFile, landing: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a published window about its source; see `publication_metadata`.

    Empty if an earlier version landed the window, without a note on whether totals were stated.
    """
    stated = _says_totals_were_stated(raw)
    return {} if stated is None else publication_metadata(_stated(raw) if stated else None, landing)


def _says_totals_were_stated(raw: pq.ParquetFile) -> bool | None:
    """Whether the source stated the totals; None if an earlier version landed the window."""
    known = _TOTALS_STATED.encode() in (raw.metadata.metadata or {})
    return json.loads(_note(raw, _TOTALS_STATED)) if known else None


def _stated(raw: pq.ParquetFile) -> ControlTotals:
    """The totals that the source stated, or the counted ones if it states none."""
    return ControlTotals.parse(_note(raw, SOURCE_TOTALS_NOTE))


def window_assets(feed: Feed = GENERATOR_FEED) -> list[dg.AssetsDefinition]:
    """The assets of a feed, in the order in which a window passes them."""
    return [_landing(feed), _validation(feed), _publication(feed)]


raw_transactions, validation, s3_parquet_transactions = window_assets()
