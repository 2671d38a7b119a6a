"""The resources of the definitions, for runs of single assets."""

from typing import Any

from txn_platform.defs.io_managers import LakeIOManager
from txn_platform.defs.resources import (
    CardKeyResource,
    GeneratorResource,
    LakeResource,
    QuarantineResource,
)


def lake_resources() -> dict[str, Any]:
    """The lake, and the IO manager over it."""
    lake = LakeResource()
    return {"store": lake, "lake": LakeIOManager(lake=lake)}


def run_resources(generator: GeneratorResource) -> dict[str, Any]:
    """All resources, with this source."""
    return {
        "generator": generator,
        **lake_resources(),
        "card_key": CardKeyResource(),
        "quarantine": QuarantineResource(),
    }
