"""The refunds of the preset `realistic`: each pays back an ordinary purchase of earlier days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from generator_service.simulator.fraud import REFUNDED_BEFORE
from generator_service.simulator.randomness import (
    Flags,
    Floats,
    Hashes,
    Integers,
    below,
    bits,
    key_of,
    mix,
    uniform,
)
from generator_service.simulator.rates import MINUTES_OF_DAY
from generator_service.simulator.schema import TRANSACTION_TYPES
from generator_service.simulator.slots import Slots, single
from generator_service.simulator.standing import is_standing

if TYPE_CHECKING:
    import numpy.typing as npt

    from generator_service.simulator.fraud import Fraud, RefundAbuse
    from generator_service.simulator.ordinary import OrdinaryRows
    from generator_service.simulator.slots import Cells, Draft

_REFUNDED = 0.013
"""Share of purchases that are replaced by the refund of an earlier one."""

_REFUND_AFTER = (2, 14)
"""Days between a purchase and its refund."""

_REFUND_TRIES = 6

_PURCHASE = TRANSACTION_TYPES.index("PURCHASE")
_REFUND = TRANSACTION_TYPES.index("REFUND")


class Refunds:
    """Turns rows into refunds of earlier purchases.

    Args:
        seed: the seed of the generator.
        cells: the facts of all cells.
        ordinary: makes the purchases that are refunded.
        fraud: says which rows are fraud, and so not refunded.
    """

    def __init__(self, seed: int, cells: Cells, ordinary: OrdinaryRows, fraud: Fraud) -> None:
        self._key = np.uint64(key_of("refunds", seed))
        self._cells = cells
        self._ordinary = ordinary
        self._fraud = fraud

    def replace_purchases(self, slots: Slots, roots: Hashes, draft: Draft) -> None:
        """Turn some purchases into the refund of an earlier one."""
        hashes = mix(roots ^ self._key)
        gives_way = (draft.types == _PURCHASE) & (draft.fraud == 0) & _is_refund(hashes)
        rows = np.flatnonzero(gives_way)
        if not rows.size:
            return
        hashes = hashes[rows]
        parents, found = self._purchases_before(slots.row_cells()[rows], hashes, _REFUND_AFTER)
        # Two thirds are full refunds.
        parts = np.where(bits(hashes, 20, 4) < 11, 1.0, uniform(mix(hashes.copy())))
        self._write_refunds(rows[found], parents.select(found), parts[found], draft)

    def refund_again(self, abuse: RefundAbuse, draft: Draft) -> None:
        """Turn rows of fraud into full refunds of a purchase that was refunded before.

        Rows without such a purchase stay as they are, and are not fraud.
        """
        parents, found = self._purchases_before(abuse.cells, abuse.hashes, REFUNDED_BEFORE)
        rows = abuse.rows
        draft.fraud[rows[~found]] = 0
        self._write_refunds(rows[found], parents.select(found), np.ones(rows.size)[found], draft)

    def _write_refunds(
        self, rows: npt.NDArray[np.intp], parents: Slots, parts: Floats, draft: Draft
    ) -> None:
        refunded = self._ordinary.draft(parents, parents.roots(), details=draft.details is not None)
        refunded.types[:] = _REFUND
        refunded.cents = np.maximum(np.rint(refunded.cents * parts).astype(np.int64), 1)
        draft.put(rows, refunded)
        draft.refunds.append((rows, parents))

    def _purchases_before(
        self, cells: Integers, hashes: Hashes, days: tuple[int, int]
    ) -> tuple[Slots, Flags]:
        """Find an ordinary purchase for each cell, in a range of days before it.

        Returns one slot for each cell, and whether it has a purchase that is neither a refund nor
        fraud.
        """
        first, last = (day * MINUTES_OF_DAY for day in days)
        earlier = np.empty(cells.size, dtype=np.int64)
        indices = np.zeros(cells.size, dtype=np.int64)
        found = np.zeros(cells.size, dtype=np.bool_)
        sought = np.arange(cells.size)
        hashes = hashes.copy()
        for _ in range(_REFUND_TRIES):
            mix(hashes)
            earlier[sought] = cells[sought] - first - below(hashes, last - first)
            mix(hashes)
            facts = self._cells.facts(earlier[sought])
            indices[sought] = below(hashes, facts.counts)
            slots = Slots(
                earlier[sought], facts, np.arange(sought.size), indices[sought], self._cells
            )
            found[sought] = self._are_purchases(slots)
            missing = ~found[sought]
            sought, hashes = sought[missing], hashes[missing]
        return single(earlier, indices, self._cells), found

    def _are_purchases(self, slots: Slots) -> Flags:
        """Return whether slots have ordinary purchases, without making them."""
        roots = slots.roots()
        good = (slots.facts.counts > 0) & (self._ordinary.types(slots, roots) == _PURCHASE)
        good &= ~_is_refund(mix(roots ^ self._key))
        good &= ~is_standing(slots.facts, slots.indices)
        good &= self._fraud.scenarios(slots, roots) == 0
        return good


def _is_refund(hashes: Hashes) -> Flags:
    return bits(hashes, 0, 16) < int(_REFUNDED * 65536)
