"""The IO manager: how assets are written to the lake, and read from it by annotation.

The package `lake` stores the objects.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final, Self, Union, get_args, get_origin, override

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.audit import audited
from txn_platform.contract.schema import QUARANTINED, RAW
from txn_platform.defs.failures import Step, failing_for_users, with_tracebacks
from txn_platform.defs.frames import batches_of, explained_writes, is_of_pandas, kept_schema
from txn_platform.defs.layout import partition_key_of_object
from txn_platform.defs.resources import LakeResource
from txn_platform.errors import UserError
from txn_platform.feeds import Feed
from txn_platform.lake.base import LakeFile, StoredObject, explained_reads
from txn_platform.lake.layout import partition_of_key, window_of_key
from txn_platform.lake.parquet import Encoding
from txn_platform.lake.staging import Staged
from txn_platform.runbook import Section

# An asset with this metadata holds card numbers in clear.
CLEAR_CARDS: Final = "card_numbers_in_clear"
# An asset with this metadata is also committed to the Delta table, if there is one.
IN_DELTA: Final = "in_delta_table"
# An input with this metadata gets the existing partitions only. The name is Dagster's own
# (`UPathIOManager`).
ALLOW_MISSING: Final = "allow_missing_partitions"


@dataclass(frozen=True)
class StagedRows(Staged):
    """A staged file of rows of a feed.

    Attributes:
        feed: that they are of.
    """

    feed: Feed

    @classmethod
    def of(cls, staged: Staged, feed: Feed) -> Self:
        """The same file, of a feed."""
        return cls(**vars(staged), feed=feed)


_ENCODING = Encoding(compression="zstd")
_NAMED: Final = 5


class LakeIOManager(dg.ConfigurableIOManager):
    """Keeps every asset's partition as one Parquet object.

    An asset may return a `Staged` file, `pl.LazyFrame`, `pl.DataFrame`, `pa.Table`,
    `pa.RecordBatchReader` or `pd.DataFrame`. A run over several partitions returns a mapping from
    each partition key to one of these. `layout` makes the keys of objects.

    An input has the type of its annotation: one of these frames and tables, `pq.ParquetFile` to
    read in pieces, or `LakeFile` for that and for the object's bytes. A frame or a table holds all
    partitions of the input; `dict[str, pl.LazyFrame]` and the like hold them one by one. All
    partitions must exist, unless the input's metadata has `allow_missing_partitions`.
    """

    lake: dg.ResourceDependency[LakeResource]

    @override
    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Self]:
        """For as long as a run lasts."""
        with with_tracebacks():
            yield self

    @override
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish one partition of an asset, whole."""
        with failing_for_users(_step_of(context)):
            objects = _objects(context)
            if len(objects) == 1 and not (
                context.has_asset_partitions and isinstance(obj, Mapping)
            ):
                (key,) = objects.values()
                context.add_output_metadata(self._store(context, obj, key))
                return
            stored = [
                self._store(context, part, objects[partition])
                for partition, part in _parts(context, obj, list(objects)).items()
            ]
            context.add_output_metadata(
                {
                    name: sum(metadata[name] for metadata in stored)
                    for name in ("dagster/partition_row_count", "size_bytes")
                }
            )

    def _store(self, context: dg.OutputContext, returned: object, key: str) -> dict[str, Any]:
        """Write a table to a key, and return the metadata of the object."""
        if isinstance(returned, Staged):
            return self._publish(context, returned, key)
        reader = batches_of(returned)
        with self.lake.lake.stage(kept_schema(reader.schema), _ENCODING) as writer:
            with explained_writes():
                for batch in reader:
                    writer.write(batch)
                staged = writer.finish()
            return self._publish(context, staged, key)

    def _publish(self, context: dg.OutputContext, staged: Staged, key: str) -> dict[str, Any]:
        with audited(
            "publish",
            window=partition_of_key(key),
            run=context.run_id,
            asset=_name(context),
            object=self.lake.lake.uri(key),
            rows=staged.rows,
            sha256=staged.sha256,
        ) as line:
            metadata = self._put(context, staged, key)
            line |= {name: name in metadata for name in ("unchanged", "superseded")}
        if address := self.lake.lake.browser_address(key):
            metadata["object"] = dg.MetadataValue.url(address)
        context.log.info(
            "%s: %d rows, %d bytes in %.1f s, %s at %s",
            _name(context),
            staged.rows,
            staged.size,
            staged.seconds,
            "unchanged" if "unchanged" in metadata else "written",
            self.lake.lake.uri(key),
        )
        return metadata

    def _put(self, context: dg.OutputContext, staged: Staged, key: str) -> dict[str, Any]:
        clear_cards = bool(context.definition_metadata.get(CLEAR_CARDS))
        delta = None
        if isinstance(staged, StagedRows) and context.definition_metadata.get(IN_DELTA):
            delta = self.lake.delta(staged.feed)
        if delta is None:
            return _described(self.lake.lake.publish(staged, key, clear_cards=clear_cards), staged)
        delta.require_usable()
        # Opened before it is moved: both get the same rows, even if another run publishes too.
        with pq.ParquetFile(staged.path, memory_map=True) as file:
            stored = self.lake.lake.publish(staged, key, clear_cards=clear_cards)
            committed = delta.commit(file, window_of_key(key), staged.sha256)
        return {
            "delta_table": delta.uri,
            "delta_version": committed.version,
            **_described(stored, staged),
        }

    @override
    def load_input(self, context: dg.InputContext) -> Any:
        """The input as the type of its annotation; None if it has no partitions."""
        with failing_for_users(_step_of(context)):
            kind, apart, optional = _wanted(context.dagster_type.typing_type)
            objects = self._existing(context, _objects(context))
            if apart:
                return {
                    partition: self._load(context, kind, [key])
                    for partition, key in objects.items()
                }
            if objects:
                return self._load(context, kind, list(objects.values()))
            if optional or not context.asset_partition_keys:
                return None
            raise UserError(
                f"input {context.name} has none of its {len(context.asset_partition_keys):,}"
                f" partitions in the lake: materialize {_name(context)} first",
                Section.INPUT_MISSING,
            )

    def _existing(self, context: dg.InputContext, objects: dict[str, str]) -> dict[str, str]:
        """The existing objects of an input.

        Raises:
            UserError: some are missing, and the input does not allow it. A single object is
                looked up when it is read.
        """
        allowed = bool((context.definition_metadata or {}).get(ALLOW_MISSING))
        if not allowed and len(objects) == 1:
            return objects
        absent = set(self.lake.lake.absent(list(objects.values())))
        missing = [partition for partition, key in objects.items() if key in absent]
        if not missing:
            return objects
        named = ", ".join(missing[:_NAMED])
        if len(missing) > _NAMED:
            named += f" and {len(missing) - _NAMED:,} more, the last {missing[-1]}"
        lacking = (
            f"input {context.name} lacks {len(missing):,} of its {len(objects):,} partitions of"
            f" {_name(context)}: {named}"
        )
        if not allowed:
            raise UserError(
                f"{lacking}. Materialize them first, or have the input take those that exist:"
                f' dg.AssetIn(metadata={{"{ALLOW_MISSING}": True}})',
                Section.INPUT_MISSING,
            )
        context.log.warning(lacking)
        return {partition: key for partition, key in objects.items() if key not in absent}

    def _load(self, context: dg.InputContext, kind: Any, keys: list[str]) -> Any:
        if _has_clear_cards(context):
            for key in keys:
                with audited(
                    "read",
                    window=partition_of_key(key),
                    run=_run_of(context),
                    asset=_name(context),
                    object=self.lake.lake.uri(key),
                ):
                    # A frame or a file is read when the asset asks for its rows.
                    pass
        match kind:
            case type() if kind in {LakeFile, pq.ParquetFile}:
                if len(keys) != 1:
                    raise UserError(
                        f"input {context.name} is {len(keys)} partitions: annotate it as a"
                        f" frame or a table, a {kind.__name__} is one",
                        Section.OWN_ASSET,
                    )
                file = LakeFile(self.lake.lake, keys[0])
                return file if kind is LakeFile else file.parquet()
            case pa.Table:
                return self._table(context, keys)
            case type() if is_of_pandas(kind):
                import pandas as pd

                return self._table(context, keys).to_pandas(types_mapper=pd.ArrowDtype)
            case type() if issubclass(kind, pl.LazyFrame):
                return self.lake.lake.scan(keys)
            case type() if kind is object or issubclass(kind, pl.DataFrame):
                try:
                    with explained_reads(f"input {context.name}"):
                        return self.lake.lake.scan(keys).collect()
                except pl.exceptions.SchemaError:
                    raise _differing(context, kind) from None
            case _:
                raise UserError(
                    f"input {context.name} is annotated as {kind}, which the lake does not give:"
                    " annotate it as pl.LazyFrame, pl.DataFrame, pa.Table, pd.DataFrame,"
                    " pq.ParquetFile or LakeFile",
                    Section.OWN_ASSET,
                )

    def _table(self, context: dg.InputContext, keys: list[str]) -> pa.Table:
        try:
            return pa.concat_tables(self.lake.lake.open(key).read() for key in keys)
        except pa.ArrowInvalid:
            raise _differing(context, pa.Table) from None


def _has_clear_cards(context: dg.InputContext) -> bool:
    """Whether an input is an asset with card numbers in clear."""
    source = context.upstream_output
    is_marked = source is not None and bool((source.definition_metadata or {}).get(CLEAR_CARDS))
    return is_marked or context.asset_key.path[-1] in {RAW, QUARANTINED}


def _run_of(context: dg.InputContext) -> str | None:
    """The id of an input's run; None if a person loads the asset."""
    step = _step_of(context)
    return None if step is None else step.dagster_run.run_id


def _step_of(context: dg.InputContext | dg.OutputContext) -> Step | None:
    """The step of a context; None outside of runs, as in `Definitions.load_asset_value`."""
    try:
        return context.step_context
    except dg.DagsterInvariantViolationError:
        return None


def _differing(context: dg.InputContext, kind: type) -> UserError:
    return UserError(
        f"input {context.name} has partitions of different columns or types: materialize"
        f" {_name(context)} again, or annotate the input as dict[str, {kind.__name__}]",
        Section.OWN_ASSET,
    )


def _wanted(annotation: Any) -> tuple[Any, bool, bool]:
    """The type in an annotation, whether it is by partition, and whether None is allowed."""
    if get_origin(annotation) in {Union, UnionType}:
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        if len(kinds) == 1:
            kind, apart, _ = _wanted(kinds[0])
            return kind, apart, len(get_args(annotation)) > 1
    if get_origin(annotation) is dict:
        return get_args(annotation)[1], True, False
    return (object if annotation is Any else annotation), False, False


def _parts(
    context: dg.OutputContext, returned: object, partitions: list[str]
) -> Mapping[str, object]:
    """The table that was returned for each of several partitions.

    Raises:
        UserError: there is not exactly one table for each.
    """
    if not isinstance(returned, Mapping):
        raise UserError(
            f"{_name(context)} was run for {len(partitions):,} partitions at once"
            f" ({partitions[0]} to {partitions[-1]}) and returned one"
            f" {type(returned).__name__}: return a dict with a table for each partition's key, or"
            " run the partitions one by one (dg.BackfillPolicy.multi_run)",
            Section.OWN_ASSET,
        )
    differing = {str(key) for key in returned} ^ set(partitions)
    if differing:
        raise UserError(
            f"{_name(context)} returned a dict that does not have exactly the keys of the"
            f" {len(partitions):,} partitions that were run: {min(differing)} differs",
            Section.OWN_ASSET,
        )
    return {str(key): table for key, table in returned.items()}


def _described(stored: StoredObject, staged: Staged) -> dict[str, Any]:
    return {
        "dagster/uri": dg.MetadataValue.text(stored.uri),
        "dagster/partition_row_count": staged.rows,
        "size_bytes": stored.size,
        # Identifies the object: the store keeps the same digest with it.
        "sha256": staged.sha256,
        **({"superseded": True} if stored.superseded else {}),
        **({"unchanged": True} if stored.unchanged else {}),
    }


def _name(context: dg.OutputContext | dg.InputContext) -> str:
    return "/".join(context.asset_key.path)


def _objects(context: dg.OutputContext | dg.InputContext) -> dict[str, str]:
    """The keys of a context's objects by partition; by None for an asset without partitions."""
    if not context.has_asset_key:
        raise UserError(
            "the lake keeps assets, not what other ops return: use another IO manager",
            Section.OWN_ASSET,
        )
    asset = context.asset_key.path
    if not context.has_asset_partitions:
        return {"": partition_key_of_object(asset, None, None)}
    return {
        partition: partition_key_of_object(asset, context.asset_partitions_def, partition)
        for partition in context.asset_partition_keys
    }
