"""The files around the code name targets, programs and pages that exist."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(__file__).parents[2]
_MAKEFILE: Final = (_ROOT / "Makefile").read_text("utf-8")
_TARGETS: Final = set(re.findall(r"^([a-z-]+):.*## ", _MAKEFILE, re.MULTILINE))
_PAGES: Final = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")])


def _recipe(target: str) -> str:
    (recipe,) = re.findall(rf"^{target}:.*\n((?:[\t#].*\n)+)", _MAKEFILE, re.MULTILINE)
    return recipe


_WORKFLOWS: Final = sorted((_ROOT / ".github/workflows").glob("*.yml"))


def _steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(workflow.read_text("utf-8"))["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_of_the_makefile(workflow: Path) -> None:
    commands = [step["run"].split() for step in _steps(workflow) if "run" in step]
    targets = {command[1] for command in commands if command[0] == "make"}
    assert targets
    assert targets <= _TARGETS


def test_the_hosted_checks_are_those_of_a_bare_machine() -> None:
    targets = {
        step["run"].split()[1]
        for step in _steps(_ROOT / ".github/workflows/ci.yml")
        if "run" in step
    }
    assert targets == {"lint", "site", "deploy-check", "test"}
    commands = re.findall(
        r"^[^#\n]*\bmake\b.*", (_ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE
    )
    assert targets == set(
        re.findall(r"(?<!-)\b(lint|site|deploy-check|test)\b(?!=)", " ".join(commands))
    )


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_names_digests_of_actions_and_the_permissions_of_each_job(
    workflow: Path,
) -> None:
    text = workflow.read_text("utf-8")
    used = re.findall(r"uses: +(\S+)(.*)", text)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    content = yaml.safe_load(text)
    assert content["permissions"] == {}
    assert all("permissions" in job for job in content["jobs"].values())


def test_the_hooks_are_the_commands_of_make_lint() -> None:
    configuration = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    programs = r"\$\(BIN\)/((?:ruff|basedpyright|bandit|zizmor)\b[ a-z]*)"
    linted = re.findall(programs, _recipe("lint"))
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


_FENCED: Final = re.compile(r"^[ \t]*(```+|~~~+).*\n(?:.*\n)*?[ \t]*\1[ \t]*$", re.MULTILINE)
_FILE: Final = re.compile(
    r"`((?:txn_platform|txn_platform_tests|generator_service|benchmarks|deploy)/[\w./-]+)`"
)


def _links(page: Path) -> list[str]:
    """The addresses that a page links to, pictures as well."""
    text = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", page.read_text("utf-8")))
    return re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text) + re.findall(
        r"<(?:a|img)[^>]*(?:href|src)=\"([^\"]+)", text
    )


def _anchors(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and the site make them of its headings."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    found: Counter[str] = Counter()
    anchors = set(re.findall(r"<a[^>]*(?:id|name)=\"([^\"]+)", text))
    for heading in re.findall(r"^#+ +(.*?)(?: +#+)?$", text, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return anchors


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in _links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = page if not target else page.parent / target
        assert path.exists(), link
        if anchor:
            assert anchor in _anchors(path), link


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    for name in _FILE.findall(page.read_text("utf-8")):
        assert (_ROOT / name).exists(), name


@pytest.mark.parametrize("page", sorted((_ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_pages_of_the_site_link_to_pages_of_the_site(page: Path) -> None:
    """A link to a file beside `docs/` is dead on the site: pages name such files instead."""
    for link in _links(page):
        if not re.match(r"[a-z]+:|#", link):
            path = (page.parent / link.partition("#")[0]).resolve()
            assert path.is_relative_to(_ROOT / "docs"), link
    # Their script would come from another host.
    assert "```mermaid" not in page.read_text("utf-8")


def test_every_page_is_in_the_navigation() -> None:
    def paths(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        else:
            for inner in part.values() if isinstance(part, dict) else part:
                yield from paths(inner)

    configuration = (_ROOT / "mkdocs.yml").read_text("utf-8")
    navigation = yaml.safe_load(configuration[configuration.index("\nnav:") :])
    listed = list(paths(navigation["nav"]))
    assert sorted(listed) == sorted(
        str(page.relative_to(_ROOT / "docs")) for page in (_ROOT / "docs").rglob("*.md")
    )


def test_the_wheel_has_the_markers_of_typed_packages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {"txn_platform/py.typed", "generator_service/py.typed"} <= set(archive.namelist())
