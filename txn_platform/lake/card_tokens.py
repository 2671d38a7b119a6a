"""Card tokens under several keys: which windows have which key, and the mapping between tokens.

The footer of a published object names its key. The mapping is an object of the lake, written when a
key is replaced, and as restricted as the raw zone: who has the old key could test guesses of card
numbers with it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import empty
from txn_platform.contract.card_forms import CARD_NUMBER, TOKEN_COLUMN
from txn_platform.in_threads import in_threads
from txn_platform.lake.auditing import audited_object
from txn_platform.lake.base import explained_reads
from txn_platform.lake.footers import CARD_KEY, read_footer
from txn_platform.lake.layout import OBJECT_NAME
from txn_platform.lake.parquet import Encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from txn_platform.arrow.dictionaries import DictionaryEncoded
    from txn_platform.lake.base import Lake, StoredObject
    from txn_platform.rows.protection import CardProtector

MAPPINGS: Final = "card_token_mappings"
"""The folder of the mappings, below the lake's root."""
UNKNOWN_KEY: Final = "unknown"
"""The key of an object whose footer names none, as those of early versions."""

_SCHEMA: Final = pa.schema(
    [
        pa.field("old_token", pa.string(), nullable=False),
        pa.field("new_token", pa.string(), nullable=False),
    ]
)
_ENCODING: Final = Encoding(
    compression="zstd", sorted_by=("old_token",), plain=("old_token", "new_token")
)
_CARDS_TOGETHER: Final = 1 << 20
# Footers that are read together: reading one is waiting for the store.
_TOGETHER: Final = 16


def keys_of(
    lake: Lake, keys: Sequence[str], on_progress: Callable[[int], None] = lambda _: None
) -> list[str]:
    """The fingerprints of the card keys of published objects, from their footers, in their order.

    Args:
        lake: that has them.
        keys: of the objects, not of keys of cards.
        on_progress: called with the number of objects that are done.

    Raises:
        UserError: one is missing or can't be read.
    """

    def look(key: str) -> str:
        named = (read_footer(lake, key).metadata or {}).get(CARD_KEY.encode())
        return UNKNOWN_KEY if named is None else named.decode()

    return in_threads(look, keys, _TOGETHER, on_progress)


def several_keys(lake: Lake, keys: Sequence[str]) -> str:
    """A sentence on published objects whose tokens do not join; empty if all have one key.

    Args:
        lake: that has them.
        keys: of the objects.

    Raises:
        UserError: one can't be read.
    """
    counts = Counter(keys_of(lake, keys))
    if len(counts) < 2:
        return ""
    named = ", ".join(f"{count:,} under {name}" for name, count in counts.most_common())
    return (
        f"windows have card tokens under {len(counts)} card keys ({named}), which do not join:"
        " `txn rotate-card-key` rewrites those that have a raw object, and maps the tokens of the"
        f" others in {lake.uri(MAPPINGS)}"
    )


def mapping_key(old: str, new: str) -> str:
    """Where the lake keeps the mapping between the tokens of two keys, by their fingerprints."""
    return f"{MAPPINGS}/old_key={old}/new_key={new}/{OBJECT_NAME}"


def map_tokens(
    lake: Lake, sources: Iterable[str], card: str, old: CardProtector, new: CardProtector
) -> tuple[StoredObject, int]:
    """Write the mapping from the tokens of one key to those of another.

    It has every card that is found now, and every one that it had before. Mappings to the old key
    are followed by one to the new key, so that each token has one step to the newest.

    Args:
        lake: that has it.
        sources: keys of objects with card numbers as they were sent.
        card: their column of card numbers.
        old: makes the tokens that are mapped.
        new: makes the tokens that they are mapped to.

    Returns:
        The object, and the number of tokens in it.

    Raises:
        UserError: an object can't be read, or the mapping can't be written.
    """
    found = [_stored(lake, mapping_key(old.key_fingerprint, new.key_fingerprint))]
    for key in sources:
        with (
            audited_object("read", lake, key),
            explained_reads(lake.uri(key)),
            lake.open(key, [card]) as file,
        ):
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, columns=[card]).column(0)
                found.append(_tokens(column, old, new))
        # A card is in many windows, so that memory is bounded by the number of cards.
        if sum(frame.height for frame in found[1:]) > max(_CARDS_TOGETHER, found[0].height):
            found = [_distinct(found)]
    mapped = _distinct(found)
    stored = _write(lake, mapped, old.key_fingerprint, new.key_fingerprint)
    for earlier in mappings_to(lake, old.key_fingerprint):
        if earlier == new.key_fingerprint:
            continue
        before = _stored(lake, mapping_key(earlier, old.key_fingerprint))
        through = before.join(mapped, left_on="new_token", right_on="old_token", suffix="_next")
        followed = through.select("old_token", pl.col("new_token_next").alias("new_token"))
        known = _stored(lake, mapping_key(earlier, new.key_fingerprint))
        _write(lake, _distinct([known, followed]), earlier, new.key_fingerprint)
    return stored, mapped.height


def mappings_to(lake: Lake, new: str) -> list[str]:
    """The fingerprints of the keys whose tokens are mapped to those of a key, ascending."""
    found: list[str] = []
    for key in lake.keys(MAPPINGS):
        _, old, named, _ = key.split("/")
        if named == f"new_key={new}":
            found.append(old.removeprefix("old_key="))
    return found


def tokens_without(lake: Lake, key: str, mapped: pl.Series | None) -> pl.Series:
    """The card tokens of a published object that are not among those that are mapped."""
    with explained_reads(lake.uri(key)), lake.open(key) as file:
        tokens = pl.Series(file.read(columns=[TOKEN_COLUMN]).column(0), dtype=pl.String).unique()
    return tokens if mapped is None else tokens.filter(~tokens.is_in(mapped.implode()))


def old_tokens(lake: Lake, old: str, new: str) -> pl.Series:
    """The tokens of one key that are mapped to those of another."""
    return _stored(lake, mapping_key(old, new))["old_token"]


def _tokens(numbers: pa.ChunkedArray[Any], old: CardProtector, new: CardProtector) -> pl.DataFrame:
    """The tokens of the values of a column that can be card numbers."""
    values = [
        pl.Series("number", cast("DictionaryEncoded", chunk).dictionary, dtype=pl.String)
        for chunk in numbers.chunks
    ]
    distinct = pl.concat([*values, pl.Series("number", [], pl.String)]).unique()
    cards = distinct.filter(distinct.str.contains(CARD_NUMBER)).to_arrow().cast(pa.string())
    indices: Any = pa.array(np.arange(len(cards), dtype=np.int32))
    encoded = pa.DictionaryArray.from_arrays(indices, cards)
    return pl.DataFrame(
        {
            name: pl.Series(protector.protect(encoded)[1].dictionary, dtype=pl.String)
            for name, protector in (("old_token", old), ("new_token", new))
        }
    )


def _distinct(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames).unique("old_token").sort("old_token")


def _stored(lake: Lake, key: str) -> pl.DataFrame:
    """The mapping at a key; empty if there is none."""
    if lake.find(key) is None:
        return pl.DataFrame(empty(_SCHEMA))
    with explained_reads(lake.uri(key)), lake.open(key) as file:
        return pl.DataFrame(file.read())


def _write(lake: Lake, mapped: pl.DataFrame, old: str, new: str) -> StoredObject:
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(mapped)
        writer.annotate({"old_card_key_fingerprint": old, "new_card_key_fingerprint": new})
        staged, key = writer.finish(), mapping_key(old, new)
        rows, sha256 = staged.rows, staged.sha256
        with audited_object(
            "publish", lake, key, rows=rows, sha256=sha256, old_key=old, new_key=new
        ):
            # As restricted as the raw zone: the same encryption and permissions.
            return lake.publish(staged, key, clear_cards=True)
