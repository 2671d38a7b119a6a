"""Completion of `txn` in shells: the script, which click writes, and where a shell reads it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from click.shell_completion import get_completion_class

from txn_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_TXN_COMPLETE"


@dataclass(frozen=True)
class _Place:
    """Where a shell reads completions: a file of ours, and lines of its own file that load it."""

    script: Path
    start_file: Path | None = None
    lines: tuple[str, ...] = ()


def shell_of_user() -> str:
    """The shell of the user, from `SHELL`.

    Raises:
        UserError: there are no completions for it.
    """
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UserError(
            f"SHELL names no shell that can complete txn: name it, as in txn completion {SHELLS[0]}"
            f" ({', '.join(SHELLS)})"
        )
    return name


def script_of(shell: str, command: click.Command) -> str:
    """The script that lets a shell complete `txn`."""
    completion = get_completion_class(shell)
    if completion is None:
        raise UserError(f"click has no completion for {shell}")
    return completion(command, {}, "txn", _VARIABLE).source()


def install(shell: str, script: str) -> Sequence[Path]:
    """Write the script, and have the shell load it; a second time changes nothing.

    Returns:
        The files that were written or changed.

    Raises:
        UserError: a file can't be read or written.
    """
    place = _place(shell)
    changed: list[Path] = []
    if _read(place.script) != script:
        _write(place.script, script)
        changed.append(place.script)
    if place.start_file is not None:
        before = _read(place.start_file)
        missing = [line for line in place.lines if line not in before.splitlines()]
        if missing:
            separator = "\n" * (bool(before) and not before.endswith("\n"))
            added = "".join(f"{line}\n" for line in missing)
            _write(place.start_file, f"{separator}{added}", append=True)
            changed.append(place.start_file)
    return changed


def _place(shell: str) -> _Place:
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    script = data / "txn" / f"completion.{shell}"
    match shell:
        case "fish":
            configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
            return _Place(configuration / "fish" / "completions" / "txn.fish")
        case "zsh":
            directory = Path(os.environ.get("ZDOTDIR") or home)
            lines = (
                "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
                f"source {_quoted(script)}",
            )
            return _Place(script, directory / ".zshrc", lines)
        case _:
            return _Place(script, home / ".bashrc", (f"source {_quoted(script)}",))


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


def _write(path: Path, text: str, *, append: bool = False) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror}): print the script with --show, and put it"
            " where your shell reads it"
        ) from None
