"""Another API than the generator's, for the definitions and the commands of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from txn_platform.source.api import SourceApi

if TYPE_CHECKING:
    import pytest

ROWS_ALONE: Final = "/v1/transactions?start={start}&end={end}"
"""The generator's rows, of a source that states neither totals nor a watermark."""


def use_api(
    monkeypatch: pytest.MonkeyPatch, transactions: str = ROWS_ALONE, **others: Any
) -> SourceApi:
    """Let the default source have another API; returns it."""
    api = SourceApi(transactions, **{"format": "arrow"} | others)
    for module in ("txn_platform.source.generator", "txn_platform.defs.resources"):
        monkeypatch.setattr(f"{module}.generator_api", lambda *_: api)
    return api
