"""Slots identify rows; drafts are the values that a model gives them.

Windows pass slots to models, which return drafts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from generator_service.simulator.configuration import MINUTE
from generator_service.simulator.randomness import GOLDEN, Flags, Hashes, Integers, mix

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from generator_service.simulator.identities import Coordinates, Population


@dataclass(frozen=True)
class CellFacts:
    """The facts of cells, one value for each cell.

    keys are the hashes from which the draws of their rows start, counts the numbers of rows.
    standing is the number of standing orders among them, entries the index of the first one in the
    table of standing orders. phases (below counts) decides their indices in the cell.
    """

    keys: Hashes
    counts: Integers
    standing: Integers
    entries: Integers
    phases: Integers

    def take(self, at: Integers | Flags | slice) -> CellFacts:
        """Return the facts of some of the cells."""
        return CellFacts(
            self.keys[at], self.counts[at], self.standing[at], self.entries[at], self.phases[at]
        )

    def followed_by(self, other: CellFacts) -> CellFacts:
        """Return the facts of these cells followed by those of others."""
        return CellFacts(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.standing, other.standing]),
            np.concatenate([self.entries, other.entries]),
            np.concatenate([self.phases, other.phases]),
        )

    def roots(self, indices: Integers) -> Hashes:
        """Return the hash from which all draws of a row start, one row for each cell."""
        return mix(self.keys + indices.view(np.uint64) * np.uint64(GOLDEN))


class Cells(Protocol):
    """Facts of cells, computed or looked up."""

    def facts(self, cells: Integers) -> CellFacts:
        """Return the facts of cells, in their order; a cell may occur more than once."""
        ...


@dataclass(frozen=True)
class Slots:
    """Rows to make: row r is the indices[r]-th of cell cells[at[r]].

    facts has one value for each of cells; lookup also gives those of earlier cells.
    """

    cells: Integers
    facts: CellFacts
    at: Integers
    indices: Integers
    lookup: Cells

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.at.size

    def row_cells(self) -> Integers:
        """Return each row's cell."""
        return self.cells[self.at]

    def roots(self) -> Hashes:
        """Return the hash from which all draws of a row start, for each row."""
        return mix(self.facts.keys[self.at] + self.indices.view(np.uint64) * np.uint64(GOLDEN))

    def times(self, key: int) -> Integers:
        """Return when rows happen, in microseconds since the epoch: increasing with the index.

        Row i of n is in the i-th of n equal parts of its minute, uniformly distributed.
        """
        within = ((mix(self.roots() ^ np.uint64(key)) >> 38) * MINUTE >> 26).view(np.int64)
        within += self.indices * MINUTE
        within //= self.facts.counts[self.at]
        within += (self.cells * MINUTE)[self.at]
        return within

    def select(self, rows: npt.NDArray[np.intp] | Flags) -> Slots:
        """Return the slots of some of the rows."""
        return Slots(self.cells, self.facts, self.at[rows], self.indices[rows], self.lookup)


def single(cells: Integers, indices: Integers, lookup: Cells) -> Slots:
    """Return slots with a cell of their own for each row."""
    return Slots(cells, lookup.facts(cells), np.arange(cells.size), indices, lookup)


@dataclass
class Deal:
    """Who pays whom for what, by index and code, with the region of the customer.

    cards has a hash for each row, which decides which of the customer's cards is used.
    """

    customers: Integers
    kinds: Integers
    merchants: Integers
    regions: Integers
    cards: Hashes


@dataclass(frozen=True)
class Locations:
    """The coordinates of rows."""

    latitudes: Coordinates
    longitudes: Coordinates


@dataclass
class Details:
    """The columns that control totals do not need, by code: card, channel and location."""

    cards: Integers
    channels: Integers
    locations: Integers


@dataclass
class Draft:
    """The values of rows, by code; customers, cards and merchants are indices of the population.

    types index the transaction types; fraud is 0, or 1 plus the index of the model's scenario.
    refunds pairs rows with the slots of the purchases they refund.
    """

    customers: Integers
    merchants: Integers
    types: Integers
    cents: Integers
    details: Details | None
    fraud: Integers
    refunds: list[tuple[npt.NDArray[np.intp], Slots]] = field(default_factory=list)

    def put(self, rows: npt.NDArray[np.intp], other: Draft) -> None:
        """Replace the deals, amounts and details of some rows; their fraud stays."""
        self.customers[rows] = other.customers
        self.merchants[rows] = other.merchants
        self.types[rows] = other.types
        self.cents[rows] = other.cents
        if self.details and other.details:
            self.details.cards[rows] = other.details.cards
            self.details.channels[rows] = other.details.channels
            self.details.locations[rows] = other.details.locations


class Model(Cells, Protocol):
    """A preset: the number of rows of each cell, and their values."""

    @property
    def population(self) -> Population:
        """The population."""
        ...

    @property
    def scenarios(self) -> pa.StringArray:
        """The names of its scenarios of fraud."""
        ...

    @property
    def locations(self) -> Locations:
        """The coordinates of its rows."""
        ...

    @property
    def look_back(self) -> int:
        """The number of earlier cells that a row may look up through `Slots.lookup`."""
        ...

    def draft(self, slots: Slots, *, details: bool) -> Draft:
        """Return the drafts of rows; without details, only the columns that control totals need."""
        ...
