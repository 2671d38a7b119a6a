"""Run the tests many times on a machine that is busy with other things, and report every failure.

`nice`d processes that do nothing but count keep the cores busy. Ends with exit code 1 when any of
the runs failed; each run's output is kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

_BUSY = "import os\nos.nice(10)\nwhile os.getppid() == {parent}: sum(range(100_000))"


def _busy(count: int, running: ExitStack) -> None:
    """Keep so many cores busy until the stack is closed, or this process has ended."""
    for _ in range(count):
        process = subprocess.Popen([sys.executable, "-c", _BUSY.format(parent=os.getpid())])
        running.callback(process.wait)
        running.callback(process.kill)


def main() -> int:
    """Run the tests, and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--busy", type=int, default=2, help="how many cores are kept busy")
    parser.add_argument("--output", type=Path, default=Path(".txn/repeated"))
    arguments, passed_on = parser.parse_known_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ExitStack() as running:
        _busy(arguments.busy, running)
        for number in range(1, arguments.times + 1):
            output = arguments.output / f"{number}.log"
            started = time.monotonic()
            with output.open("wb") as log:
                code = subprocess.run(
                    [sys.executable, "-m", "pytest", *passed_on],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                ).returncode
            failed += code != 0
            seconds = time.monotonic() - started
            last = output.read_text(errors="replace").splitlines()[-1:]
            print(f"{number}: exit code {code}, {seconds:.0f} s: {''.join(last)}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
