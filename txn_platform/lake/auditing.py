"""Lines of the audit log about objects of a lake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from txn_platform.audit import audited
from txn_platform.lake.layout import asset_of_key, partition_of_key

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from txn_platform.audit import Action
    from txn_platform.lake.base import Lake


def audited_object(
    action: Action, lake: Lake, key: str, **details: Any
) -> AbstractContextManager[dict[str, Any]]:
    """A line about an object, with its window, asset and address; see `audit.audited`.

    Args:
        action: what the block does with it.
        lake: that has it.
        key: of the object.
        details: more fields.
    """
    return audited(
        action,
        window=partition_of_key(key),
        asset=asset_of_key(key),
        object=lake.uri(key),
        **details,
    )
