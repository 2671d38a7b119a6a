"""The files around the code name targets, programs and pages that exist."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest
import yaml

_ROOT: Final = Path(__file__).parents[2]
_MAKEFILE: Final = (_ROOT / "Makefile").read_text("utf-8")
_TARGETS: Final = set(re.findall(r"^([a-z-]+):.*## ", _MAKEFILE, re.MULTILINE))
_PAGES: Final = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")])


def _recipe(target: str) -> str:
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", _MAKEFILE, re.MULTILINE)
    return recipe


def test_the_workflow_runs_targets_of_the_makefile() -> None:
    workflow = yaml.safe_load((_ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    commands = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    assert {command.split()[:2][1] for command in commands} == {"lint", "test"}
    assert {"lint", "test"} <= _TARGETS
    assert all(command.startswith("make ") for command in commands)


def test_the_hooks_are_the_commands_of_make_lint() -> None:
    configuration = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    linted = re.findall(r"\$\(BIN\)/((?:ruff|basedpyright)\b[ a-z]*)", _recipe("lint"))
    assert [hook["name"] for hook in hooks] == [command.strip() for command in linted]
    for hook in hooks:
        assert hook["entry"].startswith(f".venv/bin/{hook['name']}")


def test_each_generated_page_is_written_by_a_target() -> None:
    """A page names the module that makes it; `make docs` or `make readers` runs that module."""
    run = set(re.findall(r"-m (txn_platform[\w.]*)", _recipe("docs") + _recipe("readers")))
    named = {
        module
        for page in _PAGES
        for module in re.findall(
            r"[Mm]ade (?:from \S+ )?by `?python -m ([\w.]+\w)", page.read_text("utf-8")
        )
    }
    assert named == run


def test_the_fast_tests_exist() -> None:
    (block,) = re.findall(r"^FAST := ((?:.*\\\n)*.*\n)", _MAKEFILE, re.MULTILINE)
    names = block.partition(",")[2].replace("\\", " ").rstrip(")\n").split()
    assert names
    for name in names:
        assert (_ROOT / "txn_platform_tests" / name).exists()


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_wheel_has_the_markers_of_typed_packages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {"txn_platform/py.typed", "generator_service/py.typed"} <= set(archive.namelist())
