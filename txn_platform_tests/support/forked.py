"""Processes forked from one that has imported Dagster, once for all tests of a worker.

This saves Dagster's imports, which take longer than most tests need. Tests of the installed
programs themselves start those.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from txn_platform_tests.support.read_once import read_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.process import BaseProcess

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        __name__,
        "boto3",
        "dagster._cli",
        "dagster._core.storage.event_log",
        "dagster._core.storage.runs",
        "deltalake",
        "duckdb",
        "txn_platform.doctor",
        "txn_platform.runs",
        "txn_platform.source.client",
    ]
)


def start(
    target: Callable[..., None],
    *arguments: Any,
    environment: Mapping[str, str],
    directory: Path,
    stdout: Path,
    stderr: Path,
) -> BaseProcess:
    """Start a process that calls the target in an environment and a directory, and writes files.

    The target is a function of a module that can be imported; it and its arguments are pickled.
    The files are there at once, however long the process takes to begin.
    """
    for output in (stdout, stderr):
        output.touch(mode=0o600)
    process = _FORKS.Process(
        target=_call,
        args=(target, arguments, dict(environment), directory, (stdout, stderr)),
        daemon=True,
    )
    process.start()
    return process


def _call(
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    directory: Path,
    outputs: tuple[Path, Path],
) -> None:
    os.chdir(directory)
    for standard, output in enumerate(outputs, 1):
        # Both can be the same file: they append, so neither overwrites the other.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(output, flags, 0o600)
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    with read_once():
        target(*arguments)


def program(name: str, *arguments: str) -> None:
    """Run an installed program from its entry point."""
    sys.argv = [str(_installed(name)), *arguments]
    (entry,) = entry_points(group="console_scripts", name=name)
    sys.exit(entry.load()())


def fresh_program(name: str, *arguments: str) -> None:
    """Run an installed program from its first instruction, with all imports."""
    os.execve(_installed(name), [name, *arguments], os.environ)  # noqa: S606 - without a shell


def _installed(name: str) -> Path:
    return Path(sys.executable).with_name(name)
