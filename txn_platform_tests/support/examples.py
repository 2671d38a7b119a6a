"""The shell and Python examples of README and `docs/`: how they are run, and which are not.

Sybil finds the examples of a page. They run in order, in one copy of the checkout that is thrown
away. A comment before an example, which readers of the page do not see, says how it runs:

    <!-- skip: next "installs from the package index" -->   it does not run, for this reason
    <!-- example: long -->                                  only `make test-long` runs it
    <!-- example: background Ctrl-C stops -->               it runs until the page ends; the page
                                                            goes on when it has printed this text
    <!-- example: file mine.py -->                          it is the content of this file
    <!-- example: output -->                                of a `text` block: the example before
                                                            printed it; `...` stands for any text

`<!-- invisible-code-block: sh` ... `-->` runs without being shown. `python -m
txn_platform_tests.support.examples` writes `docs/examples.md`, the list of those that do not run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import SkipTest

from sybil import Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer

from txn_platform.local.processes import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sybil import Document

CHECKOUT: Final = Path(__file__).parents[2]
PAGE: Final = CHECKOUT / "docs" / "examples.md"
# Its examples are those of README.md, which another test compares.
_TRANSLATED: Final = CHECKOUT / "README.pt-BR.md"
# Languages of blocks. The first two are run; blocks of the others run only if a comment says so.
RUN: Final = ("sh", "python")
LANGUAGES: Final = (*RUN, "text", "ini", "json", "mermaid", "sql", "toml", "yaml")
_INSTRUCTIONS: Final = ("long", "background", "file", "output")
_SECONDS: Final = 200
# A small source: an hour has some 3,600 rows.
_SMALL: Final = {
    "GENERATOR_TPS": "1",
    "GENERATOR_CUSTOMERS": "2000",
    "GENERATOR_MERCHANTS": "500",
}
# Pages that show how a source is started, or how a setting changes the generator that a run starts.
_OWN_SOURCE: Final = ("README.md", "generator.md")
# Each block is a bash of its own, which begins with the variables and the directory of the last.
_SHELL: Final = """
state=$1
[ ! -e "$state" ] || { unset $(compgen -e); . "$state"; }
set -eo pipefail
. "$2"
{ export -p; printf 'cd %q\\n' "$PWD"; } >"$state"
"""
_IN_STATE: Final = '[ ! -e "$0" ] || { unset $(compgen -e); . "$0"; }; exec "$@"'
# The Python blocks of a page share their names, as if they were one program.
_PYTHON: Final = """
import os, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    path = line.rstrip("\\n")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    failed = b"0"
    try:
        exec(compile(text, path, "exec"), names)
    except BaseException:
        traceback.print_exc()
        failed = b"1"
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(int(sys.argv[1]), failed)
"""


@dataclass(frozen=True)
class Block:
    """A block of a page that may be run.

    Attributes:
        page: the page's path.
        line: where it begins.
        language: `sh`, `python` or another.
        source: its text.
        instructions: those of the comments before it, with their arguments.
        skipped: why it does not run; empty if it does.
    """

    page: Path
    line: int
    language: str
    source: str
    instructions: dict[str, str] = field(default_factory=dict)
    skipped: str = ""

    @property
    def where(self) -> str:
        """Page and line, as `delta.md:6`."""
        return f"{self.page.name}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether it runs, in one of the test targets."""
        return not self.skipped and (self.language in RUN or bool(self.instructions))


def pages() -> list[Path]:
    """Return the pages whose examples are run: those of `docs/`, README and its neighbours."""
    found = {*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")}
    return sorted(found - {_TRANSLATED})


def starts_its_source(page: Path) -> bool:
    """Whether the runs of a page start the generator, which takes as long as a run itself."""
    return page.name in _OWN_SOURCE


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in all languages, in order.

    Raises:
        ValueError: a comment cannot be understood, or gives no reason.
    """
    found: list[Block] = []
    evaluate(page, found.append)
    return found


def evaluate(page: Path, handle: Callable[[Block], None]) -> None:
    """Let Sybil evaluate a page: it passes each block to the function."""
    reading = _Reading(page, handle)
    parsers = [reading.parser_of(language) for language in LANGUAGES]
    for example in Sybil([*parsers, reading.skips, reading.instructions]).parse(page):
        try:
            example.evaluate()
        except SkipTest as skip:
            reading.take(example, example.region.lexemes["arguments"], str(skip))


class _Reading:
    """The parsers and evaluators of one page."""

    def __init__(self, page: Path, handle: Callable[[Block], None]) -> None:
        self._page = page
        self._handle = handle
        # Those of the comments since the last block.
        self._instructions: dict[str, str] = {}

    def parser_of(self, language: str) -> CodeBlockParser:
        """Return the parser of the blocks of a language."""
        return CodeBlockParser(language, partial(self.take, language=language))

    def skips(self, document: Document) -> Iterator[Region]:
        """Yield the comments that skip a block."""
        for region in SkipParser()(document):
            if region.parsed[0] != "end" and not region.parsed[1]:
                raise ValueError(f"{self._page}: a comment that skips an example gives no reason")
            yield region

    def instructions(self, document: Document) -> Iterator[Region]:
        """Yield the comments that say how a block runs."""
        for region in DirectiveInHTMLCommentLexer("example")(document):
            yield Region(region.start, region.end, region.lexemes["arguments"], self._instruct)

    def take(self, example: Example, language: str, skipped: str = "") -> None:
        """Pass a block on, with the instructions before it."""
        instructions, self._instructions = self._instructions, {}
        source = str(example.parsed)
        self._handle(Block(self._page, example.line, language, source, instructions, skipped))

    def _instruct(self, example: Example) -> None:
        name, _, argument = example.parsed.strip().partition(" ")
        if name not in _INSTRUCTIONS:
            raise ValueError(f"{self._page}:{example.line}: unknown instruction {name!r}")
        self._instructions[name] = argument.strip()


class Session:
    """A copy of the checkout in which the blocks of one page run; a context manager."""

    def __init__(self, directory: Path, *, long: bool, source: str = "") -> None:
        """Prepare a session.

        Args:
            directory: an empty directory for it.
            long: whether blocks run that are marked as long.
            source: the address of a running source; empty if each run starts its own.
        """
        self._long = long
        self._source = {"GENERATOR_URL": source} if source else {}
        self._work = directory / "session"
        self._checkout = directory / "checkout"
        self._number = 0
        self._output = ""
        self._python: tuple[subprocess.Popen[bytes], int] | None = None
        self._files: set[str] = set()
        self._ends = ExitStack()
        # Tests run side by side: the pages' ports become free ones.
        self._ports = dict(zip(("8000", "3000"), map(str, free_ports(2)), strict=True))

    def __enter__(self) -> Self:
        self._work.mkdir()
        (self._work / "home").mkdir()
        _copy_checkout(self._checkout)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def run(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: it does not end as the page says; has its output.
        """
        if not block.is_run or ("long" in block.instructions and not self._long):
            return
        self._number += 1
        if "output" in block.instructions:
            self._require_output(block)
        elif "file" in block.instructions:
            path = self._checkout / block.instructions["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.source, "utf-8")
        elif block.language == "python":
            self._run_python(block)
        elif "background" in block.instructions:
            self._start(block)
        else:
            self._run_shell(block)

    def _run_shell(self, block: Block) -> None:
        process = self._bash(block)
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._read_output()
            raise self._failure(block, f"did not end within {_SECONDS} s") from None
        finally:
            _end_group(process, signal.SIGKILL)
        self._read_output()
        if process.returncode:
            raise self._failure(block, f"ended with exit code {process.returncode}")

    def _start(self, block: Block) -> None:
        """Start a block that runs until the session ends, and wait until it says that it is up."""
        process = self._bash(block)
        self._ends.callback(_end_group, process, signal.SIGINT)
        deadline = time.monotonic() + _SECONDS
        while block.instructions["background"] not in self._read_output():
            if process.poll() is not None or time.monotonic() > deadline:
                raise self._failure(block, "did not print the text that the page waits for")
            time.sleep(0.1)

    def _bash(self, block: Block) -> subprocess.Popen[bytes]:
        script = self._work / f"{self._number}.sh"
        script.write_text(self._with_free_ports(block.source), "utf-8")
        return self._popen("bash", "-c", _SHELL, "bash", str(self._state), str(script))

    def _run_python(self, block: Block) -> None:
        script = self._work / f"{self._number}.py"
        script.write_text(self._with_free_ports(block.source), "utf-8")
        if self._python is None:
            reader, writer = os.pipe()
            self._ends.callback(os.close, reader)
            python = (sys.executable, "-c", _PYTHON, str(writer))
            process = self._popen(
                *("bash", "-c", _IN_STATE, str(self._state), *python),
                stdin=subprocess.PIPE,
                pass_fds=[writer],
            )
            os.close(writer)
            self._ends.callback(_end_group, process, signal.SIGTERM)
            self._python = process, reader
            self._python_log = self._log
        process, reader = self._python
        start = self._python_log.stat().st_size
        assert process.stdin is not None
        process.stdin.write(f"{script}\n".encode())
        process.stdin.flush()
        # Nothing is read when the program has ended.
        failed = os.read(reader, 1) != b"0"
        with self._python_log.open("rb") as log:
            log.seek(start)
            self._output = log.read().decode(errors="replace")
        if failed:
            raise self._failure(block, "raised an error")

    def _popen(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own; it writes to `_log`."""
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command,
                **{"stdin": subprocess.DEVNULL, **options},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._checkout,
                env=self._environment(),
                start_new_session=True,
            )

    @property
    def _log(self) -> Path:
        return self._work / f"{self._number}.log"

    @property
    def _state(self) -> Path:
        return self._work / "state"

    def _environment(self) -> dict[str, str]:
        programs = str(Path(sys.executable).parent)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            **_SMALL,
            **self._source,
            "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
            "HOME": str(self._work / "home"),
            # Its packages are imported, not those of the checkout that is tested.
            "PYTHONPATH": str(self._checkout),
            "GENERATOR_PORT": self._ports["8000"],
            "SHELL": "/bin/bash",
            "COLUMNS": "120",
        }

    def _with_free_ports(self, source: str) -> str:
        for port, free in self._ports.items():
            source = re.sub(rf"(?<=127\.0\.0\.1:){port}\b", free, source)
        port = self._ports["3000"]
        source = re.sub(r"^make dev\b", "txn dev", source, flags=re.MULTILINE)
        serving = r"^((?:txn|dagster|dg) dev\b(?!.*--port))"
        return re.sub(serving, rf"\1 --port {port}", source, flags=re.MULTILINE)

    def _read_output(self) -> str:
        self._output = self._log.read_text("utf-8", errors="replace")
        return self._output

    def _require_output(self, block: Block) -> None:
        parts = [re.escape(word) for word in block.source.split()]
        pattern = r"\s+".join(parts).replace(re.escape("..."), r"[\s\S]*?")
        if not re.search(pattern, self._output):
            raise self._failure(block, "is not in the output of the example before")

    def _failure(self, block: Block, reason: str) -> AssertionError:
        return AssertionError(
            f"the example at {block.where} {reason}:\n{block.source}\n"
            f"--- its output:\n{self._output[-5000:]}"
        )


def _copy_checkout(target: Path) -> None:
    """Copy the checkout, with an environment in which `make` has nothing to install."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file that git still lists may have been deleted.
        with suppress(FileNotFoundError):
            # With its time, which is older than what `make` has installed.
            shutil.copy2(CHECKOUT / name, path)
    # Compiled modules, so that each page need not compile them.
    for package in ("generator_service", "txn_platform"):
        for cache in (CHECKOUT / package).rglob("__pycache__"):
            shutil.copytree(cache, target / cache.relative_to(CHECKOUT))
    environment = target / ".venv"
    environment.mkdir()
    for part in Path(sys.prefix).iterdir():
        (environment / part.name).symlink_to(part)
    for stamp in (environment / ".installed", target / ".uv" / "bin" / "uv"):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        stamp.touch()


def _end_group(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """End a process by a signal, and kill what it leaves behind."""
    if process.stdin is not None:
        process.stdin.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def listing() -> str:
    """Return the page `docs/examples.md`."""
    long: list[str] = []
    not_run: list[str] = []
    for page in pages():
        for block in blocks(page):
            name = f"`{page.relative_to(CHECKOUT)}`"
            first = next(line for line in block.source.splitlines() if line.strip())
            begins = f"`` {first.partition('  #')[0].strip()} ``".replace("|", "\\|")
            if block.skipped:
                not_run.append(f"| {name} | {begins} | {block.skipped} |")
            elif "long" in block.instructions:
                long.append(f"| {name} | {begins} |")
    return _LISTING.format(long="\n".join(long), not_run="\n".join(not_run))


_LISTING: Final = """\
# Examples that the tests run

<!-- made by python -m txn_platform_tests.support.examples -->

Every shell and Python example of README and of these pages is run by `make test`, in a copy of the
checkout and with a small source, but for these.

## Run by `make test-long`

| page | begins with |
| --- | --- |
{long}

## Not run

| page | begins with | why |
| --- | --- | --- |
{not_run}
"""

if __name__ == "__main__":
    PAGE.write_text(listing(), "utf-8")
