"""The sections of the runbook, `docs/runbook.md`, by their anchors.

Each error that can fail a run names its section. So does each alert.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

PAGE: Final = "docs/runbook.md"


class Section(StrEnum):
    """A section on a kind of failure. A failed check has a section of the check's own name."""

    SETTINGS = "settings"
    CARD_KEY = "card-key"
    SOURCE_SILENT = "source-does-not-answer"
    SOURCE_UNUSABLE = "source-sends-what-cannot-be-used"
    WINDOW_INCOMPLETE = "window-is-not-complete"
    WINDOW_EMPTY = "window-came-back-empty"
    PROCESS = "process-does-not-run"
    STORE_SILENT = "store-does-not-answer"
    STORE_REFUSES = "store-refuses"
    STORE_LOSES_DATA = "store-loses-data"
    INPUT_MISSING = "input-is-missing"
    OBJECT_REPLACED = "object-was-replaced"
    DISK = "disk-cannot-be-written"
    DELTA = "delta-table"
    OWN_ASSET = "asset-of-your-own"
    RUN_DIED = "run-died"
    UNEXPECTED = "unexpected-error"
    FRESHNESS = "freshness"


def place(anchor: str) -> str:
    """Where a section is, as `docs/runbook.md#disk-cannot-be-written`."""
    return f"{PAGE}#{anchor}"
