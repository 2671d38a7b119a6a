"""Which Python `make` sets the project up with, on machines with Pythons of all kinds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAKEFILE = Path(__file__).parents[2] / "Makefile"
_PYTHON = """#!{real} -I
import sys, sysconfig
sys.version_info = ({version}, 0, "final", 0)
sys.implementation.name = "{implementation}"
sysconfig.get_config_var = {{"Py_GIL_DISABLED": {free}}}.get
exec(sys.argv[2])
"""
# Says what it was asked, and that it finds no Python.
_UV = """#!/bin/sh
echo "$UV_PYTHON_DOWNLOADS: $*" >> asked
case "$1" in
  venv) mkdir -p .venv/bin; : > .venv/bin/python; chmod +x .venv/bin/python ;;
  python) exit 2 ;;
esac
"""


class _Machine:
    """A checkout, and a PATH that has what `make` needs and the programs that a test puts there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "bin"
        self.programs.mkdir()
        for name in ("Makefile", "requirements.lock", "requirements-uv.lock", "pyproject.toml"):
            shutil.copy(_MAKEFILE.with_name(name), directory)
        for name in ("bash", "sh", "mkdir", "chmod", "sort", "touch"):
            (self.programs / name).symlink_to(shutil.which(name) or name)

    def has(self, name: str, text: str) -> None:
        """Put a program on PATH."""
        path = self.programs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def has_python(
        self, name: str, version: str, *, implementation: str = "cpython", free: bool = False
    ) -> None:
        """Put a program on PATH that is a Python to who asks."""
        numbers = version.replace(".", ", ")
        self.has(
            name,
            _PYTHON.format(
                real=sys.executable, version=numbers, implementation=implementation, free=free
            ),
        )

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The output of `make`."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("UV_", "MAKE"))
        }
        return subprocess.run(
            [shutil.which("make") or "make", "--silent", *arguments],
            cwd=self.directory,
            env={
                **environment,
                "PATH": str(self.programs),
                "PYENV_ROOT": str(self.directory / "pyenv"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def chosen(self) -> str:
        """The Python that is chosen, as the test named it; nothing where there is none."""
        said = self.make("--eval", "chosen: ; @echo $(PYTHON)", "chosen").stdout.strip()
        return said.removeprefix(f"{self.programs}/").removeprefix(f"{self.directory}/")

    def asked_of_uv(self) -> str:
        asked = self.directory / "asked"
        return asked.read_text() if asked.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> _Machine:
    return _Machine(tmp_path)


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3.12": "3.12"}, "python3.12"),
        # The only one, under each name.
        ({"python3.13": "3.13"}, "python3.13"),
        ({"python3": "3.13"}, "python3"),
        ({"python": "3.14"}, "python"),
        # The newest, wherever it is.
        ({"python3.12": "3.12", "python3.13": "3.13", "python3": "3.12"}, "python3.13"),
        ({"python3.12": "3.12", "python3.9": "3.9", "python3": "3.14"}, "python3"),
        # By version: 3.9 is not newer.
        ({"python3.9": "3.9", "python3.12": "3.12"}, "python3.12"),
        # A newer Python than supported: only if there is no other.
        ({"python3.15": "3.15", "python3.12": "3.12"}, "python3.12"),
        ({"python3.16": "3.16", "python3.15": "3.15"}, "python3.15"),
        ({"python3": "4.0"}, "python3"),
        ({"python3": "3.11", "python": "2.7", "python3.9": "3.9"}, ""),
        ({}, ""),
    ],
)
def test_the_newest_supported_python_is_chosen(
    machine: _Machine, pythons: dict[str, str], chosen: str
) -> None:
    for name, version in pythons.items():
        machine.has_python(name, version)
    assert machine.chosen() == chosen


def test_a_python_that_does_not_start_or_lacks_wheels_is_passed_over(machine: _Machine) -> None:
    """As pyenv's shims of versions that are not selected, PyPy, and builds without a GIL."""
    machine.has(
        "python3.14", "#!/bin/sh\necho 'pyenv: python3.14: command not found' >&2; exit 127"
    )
    machine.has_python("python3", "3.13", implementation="pypy")
    machine.has_python("python3.13", "3.13", free=True)
    machine.has_python("python3.12", "3.12")
    assert machine.chosen() == "python3.12"


def test_a_python_of_pyenv_is_found_though_it_is_not_selected(machine: _Machine) -> None:
    machine.has("python3.13", "#!/bin/sh\nexit 127")
    machine.has_python("python3.12", "3.12")
    machine.has_python("../pyenv/versions/3.11.7/bin/python", "3.11")
    machine.has_python("../pyenv/versions/3.13.0/bin/python", "3.13")
    assert machine.chosen() == "pyenv/versions/3.13.0/bin/python"


def _lines(asked: str, first: str) -> Iterable[str]:
    return [line for line in asked.splitlines() if line.startswith(first)]


def test_the_environment_is_made_with_it_and_nothing_is_downloaded(machine: _Machine) -> None:
    machine.has("uv", _UV)
    machine.has_python("python3.13", "3.13")
    made = machine.make("setup")
    assert (made.returncode, made.stderr) == (0, "")
    (venv,) = _lines(machine.asked_of_uv(), "never: venv")
    assert venv == f"never: venv --quiet --python {machine.programs / 'python3.13'} .venv"


@pytest.mark.parametrize("uv", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_where_there_is_none_make_says_what_to_do(
    machine: _Machine, *, uv: bool, old: bool
) -> None:
    if uv:
        machine.has("uv", _UV)
    if old:
        machine.has_python("python3", "3.11")
    made = machine.make("setup")
    assert made.returncode == 2
    message = made.stderr.splitlines()[0]
    assert message.startswith("make: no Python from 3.12 on is on PATH. Install one (apt-get ")
    assert "make UV_PYTHON_DOWNLOADS=automatic" in message
    assert not (machine.directory / ".venv").exists()


@pytest.mark.parametrize("code", [0, 1])
def test_the_output_of_uv_is_shown_with_times_as_it_comes(machine: _Machine, *, code: int) -> None:
    says = 'printf " + a==1\\nInstalled 2 packages in 1ms\\n"'
    ends = f'case "$*" in "pip install --compile"*) {says}; exit {code} ;; esac\n'
    machine.has("uv", f"{_UV}{ends}")
    machine.has_python("python3.13", "3.13")
    made = machine.make("setup")
    lines = made.stdout.splitlines()
    assert lines[0].startswith("Making .venv with ")
    assert lines[1].startswith("Installing the packages of requirements.lock into .venv: ")
    assert re.fullmatch(r" +\d+ s  Installed 2 packages in 1ms", lines[2])
    assert lines[3].endswith("Compiling them, so that commands start fast")
    assert len(lines) == 4
    assert (made.returncode != 0) == bool(code)
    assert (machine.directory / ".venv/.installed").exists() == (not code)


def test_uv_fetches_one_when_it_may(machine: _Machine) -> None:
    machine.has("uv", _UV)
    made = machine.make("setup", "UV_PYTHON_DOWNLOADS=automatic")
    assert (made.returncode, made.stderr) == (0, "")
    (venv,) = _lines(machine.asked_of_uv(), "automatic: venv")
    assert venv == "automatic: venv --quiet --python >=3.12,<3.15 .venv"


def test_uv_is_installed_by_an_older_python_when_it_may_fetch_one(machine: _Machine) -> None:
    machine.has("python3", '#!/bin/sh\ntest "$1" = -c && exit 1\necho "$*" >> asked\n')
    machine.make("setup", "UV_PYTHON_DOWNLOADS=automatic")
    assert machine.asked_of_uv().splitlines()[0] == "-m venv .uv"
