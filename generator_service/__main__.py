"""`python -m generator_service`: serve, or run a command: `generate`, `scorecard`, `keys`."""

from __future__ import annotations

import atexit
import gc
import sys

from generator_service.cli import main


class _NoPandas:
    """Hides pandas from pyarrow, which imports it where it can: a quarter of the start-up time."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def program() -> None:
    """Run the command line in a process of its own."""
    sys.meta_path.insert(0, _NoPandas())
    # Skips the last garbage collection, which takes as long as the start.
    atexit.register(gc.freeze)
    main(prog_name="python -m generator_service")


if __name__ == "__main__":
    program()
