"""The keys of a feed's assets in Dagster."""

import dagster as dg

from txn_platform.feeds import Feed


def key_of(asset: str, feed: Feed) -> dg.AssetKey:
    """The key of an asset of a feed.

    Args:
        asset: its name, without the feed's prefix.
        feed: that it is of.
    """
    return dg.AssetKey([feed.prefix, asset] if feed.prefix else [asset])


def is_of_feed(key: dg.AssetKey, feed: Feed) -> bool:
    """Whether an asset has the prefix of a feed; the generator's have none."""
    return list(key.path[:-1]) == ([feed.prefix] if feed.prefix else [])
