"""`txn completion`: shells complete commands and options after it, and nothing is written twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from txn_platform.cli import main

BIN = Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home directory."""
    path = tmp_path / "a user's home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    return path


def files(home: Path) -> dict[str, str]:
    return {
        str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()
    }


START_FILES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/txn.fish"}


@pytest.mark.parametrize("shell", START_FILES)
def test_it_is_installed_once_and_what_was_there_stays(shell: str, home: Path) -> None:
    (home / ".bashrc").write_text("alias ll='ls -l'")
    result = CliRunner(env={"SHELL": f"/bin/{shell}"}).invoke(main, ["completion"])
    assert result.exit_code == 0, result.output
    written = files(home)
    assert written[START_FILES[shell]]
    assert written[".bashrc"].startswith("alias ll='ls -l'")
    assert all(name in result.stdout for name in written.keys() - {".bashrc"})
    assert CliRunner().invoke(main, ["completion", shell]).exit_code == 0
    assert files(home) == written


def test_bash_completes_commands_and_options(home: Path) -> None:
    assert CliRunner().invoke(main, ["completion", "bash"]).exit_code == 0
    asked = """
        source ~/.bashrc
        complete -p txn
        for line in "txn com" "txn run --al" "txn generate --st"; do
            COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
            _txn_completion txn
            echo "${COMPREPLY[@]}"
        done
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    bash = subprocess.run(
        ["bash", "--norc", "-c", asked], env=environment, capture_output=True, text=True, check=True
    )
    registered, *completed = bash.stdout.splitlines()
    assert registered.endswith("_txn_completion txn")
    assert completed == ["completion", "--allow-empty", "--start"]
    assert bash.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_the_script(shell: str, home: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    assert CliRunner().invoke(main, ["completion", shell]).exit_code == 0
    start = home / START_FILES[shell]
    read = subprocess.run([program, "-c", f"source '{start}'"], capture_output=True, check=False)
    assert (read.returncode, read.stderr) == (0, b"")


def test_the_script_is_shown_without_a_change(home: Path) -> None:
    result = CliRunner().invoke(main, ["completion", "zsh", "--show"])
    assert result.stdout.startswith("#compdef txn")
    assert files(home) == {}


def test_what_cannot_be_done_is_said_in_one_sentence(home: Path) -> None:
    unknown = CliRunner(env={"SHELL": "/bin/tcsh"}).invoke(main, ["completion"])
    assert unknown.exit_code == 1
    assert "Error: SHELL names no shell that can complete txn: name it" in unknown.stderr
    (home / ".local").write_text("a file")
    blocked = CliRunner().invoke(main, ["completion", "bash"])
    assert blocked.exit_code == 1
    assert "can't be written (" in blocked.stderr
    assert "--show" in blocked.stderr
    assert blocked.stderr.count("\n") == 1
