"""The IO manager: how assets are written to the lake, and read from it by annotation.

Where objects live and how they get there whole is `lake.py`'s matter.
"""

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, Final, Self, override

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.defs.failures import failing_for_users, with_tracebacks
from txn_platform.delta import DeltaLake, open_delta
from txn_platform.errors import UserError
from txn_platform.lake import (
    Encoding,
    Lake,
    LakeFile,
    Staged,
    explained_reads,
    object_key,
    open_lake,
    window_of_key,
)
from txn_platform.settings import load_settings
from txn_platform.windows import Window

# An asset with this metadata holds card numbers in clear.
CLEAR_CARDS: Final = "card_numbers_in_clear"
# An asset with this metadata is committed to the Delta table too, when there is one.
IN_DELTA: Final = "in_delta_table"

_ENCODING = Encoding(compression="zstd")


class LakeIOManager(dg.ConfigurableIOManager):
    """Keeps every asset's partition as one Parquet object.

    Takes what an asset returns: a `Staged` file, `pl.LazyFrame`, `pl.DataFrame`, `pa.Table`,
    `pa.RecordBatchReader` or `pd.DataFrame`. Gives what an input is annotated as: one of these
    frames and tables, `pq.ParquetFile` to read in pieces, or `LakeFile`
    for that and for the object's bytes; a frame or a table can hold several partitions.
    """

    @override
    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Self]:
        """For as long as a run lasts."""
        with with_tracebacks():
            yield self

    @cached_property
    def lake(self) -> Lake:
        """The lake that the settings name.

        Raises:
            UserError: it can't be opened.
        """
        return open_lake(load_settings())

    @cached_property
    def delta(self) -> DeltaLake | None:
        """The Delta table that the settings name, if any.

        Raises:
            UserError: see `open_delta`.
        """
        return open_delta(load_settings())

    @override
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish one partition of an asset, whole."""
        with failing_for_users(), ExitStack() as stack:
            if isinstance(obj, Staged):
                staged = obj
            else:
                reader = _reader(obj)
                writer = stack.enter_context(self.lake.stage(reader.schema, _ENCODING))
                for batch in reader:
                    writer.write(batch)
                staged = writer.finish()
            (key,) = _keys(context)
            clear_cards = bool(context.definition_metadata.get(CLEAR_CARDS))
            delta = self.delta if context.definition_metadata.get(IN_DELTA) else None
            if delta is None:
                stored = self.lake.publish(staged, key, clear_cards=clear_cards)
            else:
                delta.require_usable()
                # Opened before it is moved: both get the same rows, whoever else runs the window.
                with pq.ParquetFile(staged.path, memory_map=True) as file:
                    stored = self.lake.publish(staged, key, clear_cards=clear_cards)
                    committed = delta.commit(file, window_of_key(key), staged.sha256)
                context.add_output_metadata(
                    {"delta_table": delta.uri, "delta_version": committed.version}
                )
        context.add_output_metadata(
            {
                "dagster/uri": dg.MetadataValue.text(stored.uri),
                "dagster/partition_row_count": staged.rows,
                "size_bytes": stored.size,
                # Which run's object is at the address: the store keeps the same digest with it.
                "sha256": staged.sha256,
                **({"superseded": True} if stored.superseded else {}),
                **({"unchanged": True} if stored.unchanged else {}),
            }
        )

    @override
    def load_input(self, context: dg.InputContext) -> Any:
        """What the annotation asks for."""
        with failing_for_users():
            keys = _keys(context)
            match context.dagster_type.typing_type:
                case type() as kind if kind in {LakeFile, pq.ParquetFile}:
                    if len(keys) != 1:
                        raise UserError(
                            f"input {context.name} is {len(keys)} partitions: annotate it as a"
                            f" frame or a table, a {kind.__name__} is one"
                        )
                    file = LakeFile(self.lake, keys[0])
                    return file if kind is LakeFile else file.parquet()
                case pa.Table:
                    return self._table(keys)
                case type() as kind if _is_of_pandas(kind):
                    import pandas as pd

                    return self._table(keys).to_pandas(types_mapper=pd.ArrowDtype)
                case pl.LazyFrame:
                    return self.lake.scan(keys)
                case _:
                    with explained_reads(f"input {context.name}"):
                        return self.lake.scan(keys).collect()

    def _table(self, keys: list[str]) -> pa.Table:
        return pa.concat_tables(self.lake.open(key).read() for key in keys)


def _is_of_pandas(kind: type) -> bool:
    """Whether a class is pandas' frame: nobody has one who has not imported pandas.

    To import it for the question takes a tenth of a small run.
    """
    frame = getattr(sys.modules.get("pandas"), "DataFrame", None)
    return frame is not None and issubclass(kind, frame)


def _reader(table: Any) -> pa.RecordBatchReader:
    match table:
        case pa.RecordBatchReader():
            return table
        case pa.Table():
            return table.to_reader()
        case pl.DataFrame():
            return table.to_arrow().to_reader()
        case pl.LazyFrame():
            return table.collect().to_arrow().to_reader()
        case _ if _is_of_pandas(type(table)):
            return pa.Table.from_pandas(table, preserve_index=False).to_reader()
        case _:
            raise UserError(
                f"the lake keeps tables, not {type(table).__name__}: return a frame, a table or a"
                " staged file"
            )


def _keys(context: dg.OutputContext | dg.InputContext) -> list[str]:
    """The objects that a context speaks of: one a partition, or one when there are none."""
    asset = "/".join(context.asset_key.path)
    if not context.has_asset_partitions:
        return [object_key(asset, None)]
    return [object_key(asset, Window.of_partition(key)) for key in context.asset_partition_keys]
