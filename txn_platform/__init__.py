"""Financial transactions, from an API to a lake on S3: complete, typed, private, exactly once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from txn_platform.reading import read_transactions

__all__ = ["read_transactions"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a plain import of the package stays fast."""
    if name == "read_transactions":
        from txn_platform.reading import read_transactions

        return read_transactions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
