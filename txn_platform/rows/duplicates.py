"""Ids that occur more than once, found while the rows pass by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import polars as pl

from txn_platform.arrow.dictionaries import as_frame, few
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.rows.ids import id_hashes, id_times

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from txn_platform.contract.model import Contract

# Up to this many out-of-order ids are treated as possible duplicates; beyond it they are
# pre-filtered.
FEW_OUT_OF_ORDER: Final = 1 << 17
# The ids of a window are made within an hour of each other. A time that is further ahead is wrong.
_LONGEST_JUMP_MS: Final = 3_600_000


class Batches(Protocol):
    """The rows of a window in batches, from the start each time it is called."""

    def __call__(self, columns: list[str] | None, /) -> Iterator[pa.RecordBatch]:
        """The columns of the given names; all for None."""
        ...


class RepeatedIds:
    """Finds ids that occur more than once.

    Equal ids have equal times in them. Among rows in the order of these times, equal ids are close
    together, so that only the hashes of the newest time are kept. Of rows out of order, every hash
    is kept, which takes 8 bytes a row.
    """

    def __init__(self, contract: Contract = TRANSACTIONS) -> None:
        """Args: contract: of the rows."""
        self._id = contract.id
        self._repeated: list[NDArray[np.uint64]] = []
        self._out_of_order: list[NDArray[np.uint64]] = []
        self._newest: int | None = None
        self._newest_hashes = np.empty(0, dtype=np.uint64)

    @property
    def suspected(self) -> bool:
        """Whether an id may have occurred twice; when false, none has."""
        return any(map(len, self._repeated)) or any(map(len, self._out_of_order))

    def add(self, ids: pa.Array[Any]) -> NDArray[np.uint64]:
        """Look at the next n ids.

        Returns:
            Their `id_hashes`.
        """
        hashes = id_hashes(ids)
        if not len(ids):
            return hashes
        times = id_times(ids)
        if self._newest is None:
            self._newest = max(int(np.median(times)) - _LONGEST_JUMP_MS, 0)
        # After one wrong time far ahead, all right ones would be out of order.
        times[times > self._newest + 2 * _LONGEST_JUMP_MS] = -1
        newest = np.maximum.accumulate(np.concatenate([[self._newest], times]))
        in_order = times >= newest[:-1]
        self._out_of_order.append(hashes[~in_order])
        self._repeated.append(_repeated(np.concatenate([self._newest_hashes, hashes[in_order]])))
        latest = hashes[times == newest[-1]]
        if newest[-1] == self._newest:
            latest = np.concatenate([self._newest_hashes, latest])
        self._newest, self._newest_hashes = int(newest[-1]), latest
        return hashes

    def rows(self, batches: Batches) -> pl.DataFrame:
        """The rows whose id occurs more than once.

        Args:
            batches: gives the rows whose ids were added, at least one batch.

        Returns:
            The rows, all columns, in the order they came.
        """
        suspects = np.union1d(self._all(self._repeated), self._suspects_out_of_order(batches))
        found: list[pl.DataFrame] = []
        for batch in batches(None):
            if not len(suspects):
                # No rows, but the columns.
                return as_frame(batch.slice(0, 0))
            suspected = _are_in(id_hashes(batch.column(self._id)), suspects)
            found.append(as_frame(few(batch, suspected)))
        return pl.concat(found).filter(pl.col(self._id).is_duplicated())

    def _suspects_out_of_order(self, batches: Batches) -> NDArray[np.uint64]:
        """The hashes out of order of ids that may occur more than once."""
        hashes = np.unique(self._all(self._out_of_order))
        if len(hashes) <= FEW_OUT_OF_ORDER:
            return hashes
        each_occurrence: list[NDArray[np.uint64]] = []
        for batch in batches([self._id]):
            of_batch = id_hashes(batch.column(self._id))
            each_occurrence.append(of_batch[_are_in(of_batch, hashes)])
        return _repeated(self._all(each_occurrence))

    @staticmethod
    def _all(hashes: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
        return np.concatenate([np.empty(0, dtype=np.uint64), *hashes])


def repeated_ids(batches: Batches, contract: Contract = TRANSACTIONS) -> pl.DataFrame:
    """The rows whose id occurs more than once; see `RepeatedIds.rows`."""
    repeated = RepeatedIds(contract)
    for batch in batches([contract.id]):
        repeated.add(batch.column(contract.id))
    return repeated.rows(batches)


def _repeated(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hashes that occur more than once, ascending."""
    ordered = np.sort(hashes)
    return ordered[1:][ordered[1:] == ordered[:-1]]


def _are_in(hashes: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each of n hashes is in an array of at least one hash."""
    indices = np.searchsorted(ascending, hashes)
    return ascending[np.minimum(indices, len(ascending) - 1)] == hashes
