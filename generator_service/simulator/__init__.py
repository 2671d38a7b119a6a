"""The synthetic source: realistic, labelled transactions for any window of time.

Names the public parts of the simulator.
"""

from generator_service.simulator.configuration import (
    PRESETS,
    VERSION,
    Configuration,
    ControlTotals,
    Window,
)
from generator_service.simulator.schema import (
    CHANNELS,
    COORDINATES_ENCODED_SCHEMA,
    DICTIONARY_ENCODED_SCHEMA,
    SCHEMA,
    TRANSACTION_TYPES,
)
from generator_service.simulator.windows import Labels, Simulator

__all__ = [
    "CHANNELS",
    "COORDINATES_ENCODED_SCHEMA",
    "DICTIONARY_ENCODED_SCHEMA",
    "PRESETS",
    "SCHEMA",
    "TRANSACTION_TYPES",
    "VERSION",
    "Configuration",
    "ControlTotals",
    "Labels",
    "Simulator",
    "Window",
]
