"""Pictures of the terminal: commands print to a pseudo-terminal, and a browser draws it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from txn_platform_tests.browser.conftest import Picture

pytestmark = pytest.mark.pictures

COLUMNS, LINES = 100, 40
SETTINGS = {
    "GENERATOR_TPS": "0.5",
    "GENERATOR_CUSTOMERS": "500",
    "GENERATOR_MERCHANTS": "100",
    "GENERATOR_DEFECTS": "all:0.02",
    "TERM": "xterm-256color",
}


def printed(*command: str, expected: int = 0, **settings: str) -> str:
    """The standard output of a command in a terminal, with its control codes."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    program = Path(sys.executable).with_name(command[0])
    with subprocess.Popen(
        [program, *command[1:]],
        env={**os.environ, **SETTINGS, **settings},
        stdout=its,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(its)
        pieces: list[bytes] = []
        # Linux says so when the last writer is gone.
        with suppress(OSError):
            while piece := os.read(ours, 1 << 16):
                pieces.append(piece)
    os.close(ours)
    assert process.returncode == expected
    return b"".join(pieces).decode().replace("\r\n", "\n")


def drawn(page: Page, command: str, output: str) -> None:
    """Draw a terminal with a command and its output."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text(f"$ {command}"))
    console.print(Text.from_ansi(output.strip("\n")))
    page.set_content(f"<body style='margin: 0'>{console.export_svg(title='txn')}</body>")


def test_run_and_status_in_the_terminal(page: Page, picture: Picture) -> None:
    run = "txn run --from 2026-11-01-00:00 --to 2026-11-01-05:00"
    output = printed(*run.split())
    assert output.count("published") >= 6
    drawn(page, run, output)
    picture(page, "terminal-run", "svg")
    strict = "txn run --from 2026-11-01-06:00 --to 2026-11-01-06:00"
    printed(*strict.split(), expected=1, TXN_MAX_QUARANTINE="0.001")
    status = "txn status --from 2026-11-01 --to 2026-11-01"
    output = printed(*status.split())
    assert "2026-11-01 ######x......" in Text.from_ansi(output).plain
    drawn(page, status, output)
    picture(page, "terminal-status", "svg")
