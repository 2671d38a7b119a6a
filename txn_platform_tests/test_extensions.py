"""Commands and settings of other packages, which `txn` finds by entry points."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from txn_platform import extensions
from txn_platform.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The entry points of another package, whose commands and settings go before ours."""
    metadata = tmp_path / "site" / "other-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    monkeypatch.syspath_prepend(metadata.parent)
    return metadata / "entry_points.txt"


def test_help_repeats_the_commands_of_the_entry_points() -> None:
    """The names and texts that `txn --help` shows without loading the commands are theirs."""
    group = entry_points(group=extensions.COMMANDS)
    assert {entry.name for entry in group} == {"generate", "scorecard"}
    context = click.Context(main)
    for entry in group:
        shown = main.get_command(context, entry.name)
        assert shown is not None
        assert shown.get_short_help_str(1_000) == entry.load().get_short_help_str(1_000)


def test_the_help_of_a_command_is_its_own() -> None:
    said = CliRunner().invoke(main, ["generate", "-h"]).stdout
    assert said.startswith("Usage: main generate [OPTIONS]")
    assert "--format [parquet|ndjson|csv|arrow]" in said


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:generate", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("txn_platform.cli:no_such_command", "AttributeError: "),
        ("txn_platform.windows:iso", "is no click command"),
    ],
)
def test_a_broken_command_fails_alone_and_in_one_sentence(
    value: str, reason: str, installed: Path
) -> None:
    installed.write_text(f"[txn.commands]\ngenerate = {value}\n")
    failed = CliRunner().invoke(main, ["generate", "--start", "2026-11-01T00:00:00Z"])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: the command generate cannot be loaded")
    assert reason in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "  generate " in CliRunner().invoke(main, ["--help"]).stdout
    assert CliRunner().invoke(main, ["scorecard", "--help"]).exit_code == 0


def test_a_command_that_no_package_has_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    failed = CliRunner().invoke(main, ["generate"])
    assert failed.exit_code == 1
    assert failed.stderr == (
        "Error: no installed package has the command generate: install this one again\n"
    )


def test_doctor_knows_the_variables_of_the_generator() -> None:
    names, failures = extensions.variables()
    assert {"GENERATOR_TPS", "GENERATOR_SEED"} <= set(names)
    assert failures == []


def test_settings_that_cannot_be_loaded_are_reported_and_the_others_are_read(
    installed: Path,
) -> None:
    installed.write_text("[txn.settings]\nother = no_such_module:variables\n")
    names, failures = extensions.variables()
    assert "GENERATOR_TPS" in names
    (failure,) = failures
    assert failure == (
        "the settings of other cannot be loaded from no_such_module:variables:"
        " ModuleNotFoundError: No module named 'no_such_module'"
    )
