"""Any bytes of a source, and any settings, lead to rows or to one message of ours.

Inputs are read in processes of their own, so that a crash of a library is a failure as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from txn_platform_tests.support import forked, fuzzing

if TYPE_CHECKING:
    from pathlib import Path

# For all targets together.
_SECONDS: Final = 12
_SECONDS_OF_LONG: Final = 3600
_SEED: Final = 15


def _fuzz(target: str, seconds: float, directory: Path) -> None:
    out, err, progress = (directory / name for name in ("out", "err", "progress"))
    process = forked.start(
        fuzzing.run,
        target,
        _SEED,
        seconds,
        str(progress),
        environment={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        directory=directory,
        stdout=out,
        stderr=err,
    )
    process.join(seconds + 120)
    number = progress.read_text() if progress.exists() else "none"
    process.kill()
    process.join()
    assert process.exitcode == 0, (
        f"{target}, seed {_SEED}, input {number}: exit code {process.exitcode}\n{err.read_text()}"
    )
    assert (out.read_text(), err.read_text()) == ("", "")
    assert int(number) > 5


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_no_input_ends_in_anything_but_one_message(target: str, tmp_path: Path) -> None:
    _fuzz(target, _SECONDS / len(fuzzing.TARGETS), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_no_input_of_an_hour_ends_in_anything_but_one_message(target: str, tmp_path: Path) -> None:
    _fuzz(target, _SECONDS_OF_LONG / len(fuzzing.TARGETS), tmp_path)
