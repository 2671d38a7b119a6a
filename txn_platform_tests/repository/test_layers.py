"""Imports run one way: the layers of the platform, and no cycle in either package.

Imports within functions and those for type checkers count as well.
"""

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import generator_service
import txn_platform

_PACKAGES = {
    package.__name__: Path(package.__file__ or "").parent
    for package in (txn_platform, generator_service)
}

# From the ground up. A package or module may import the layers below its own, and its neighbours
# if that makes no cycle.
_LAYERS: list[set[str]] = [
    # The ground: settings and their checks, windows, errors, the network's setting.
    {
        "addresses",
        "audit",
        "aws_session",
        "backoff",
        "card_key",
        "completion",
        "console_logs",
        "errors",
        "homes",
        "http_addresses",
        "in_threads",
        "interrupts",
        "logs",
        "misspelt",
        "network",
        "permissions",
        "private_files",
        "redaction",
        "run_locks",
        "run_summary",
        "runbook",
        "running_stack",
        "server_addresses",
        "settings",
        "tuning",
        "webhook",
        "window_ranges",
        "windows",
    },
    {"arrow"},
    {"contract"},
    {"rows"},
    {"source", "lake", "local", "workers"},
    {"feeds"},
    {"reading", "window_states"},
    {"defs"},
    {"definitions"},
    {"runs", "webserver"},
    {
        "card_key_rotation",
        "chosen_lake",
        "demo",
        "doctor",
        "extensions",
        "run_queue",
        "window_runs",
    },
    {"submission"},
    {"terminal"},
    {"cli"},
]


def _module(path: Path, root: Path, name: str) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join([name, *parts[: -1 if parts[-1] == "__init__" else None]])


def _graph(name: str) -> dict[str, set[str]]:
    """Return the modules of a package, and the modules of it that each one imports."""
    root = _PACKAGES[name]
    paths = {_module(path, root, name): path for path in root.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    named.add(inner if inner in paths else node.module)
        graph[module] = named & paths.keys() - {module}
    return graph


def _imports(name: str) -> dict[Path, set[str]]:
    """Return the top-level packages that the files of a package import, ours and others."""
    found: dict[Path, set[str]] = defaultdict(set)
    for path in _PACKAGES[name].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[path] |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found[path].add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("name", list(_PACKAGES))
def test_no_import_makes_a_cycle(name: str) -> None:
    TopologicalSorter(_graph(name)).prepare()


def test_every_package_has_its_layer() -> None:
    root = _PACKAGES["txn_platform"]
    there = {path.parent.name for path in root.glob("*/__init__.py")}
    there |= {path.stem for path in root.glob("*.py")} - {"__init__"}
    assert set.union(*_LAYERS) == there


def test_imports_run_one_way() -> None:
    layer = {name: number for number, names in enumerate(_LAYERS) for name in names}
    for module, named in _graph("txn_platform").items():
        if module != "txn_platform":
            own = module.split(".")[1]
            for other in {each.split(".")[1] for each in named} - {own}:
                assert layer[other] <= layer[own], f"{module} imports {other}"
                beside = layer[other] == layer[own] and layer[own] > 0
                assert not beside, f"{module} imports {other}, which is beside it"


def test_dagster_is_known_to_the_entry_points_and_its_own_package() -> None:
    root = _PACKAGES["txn_platform"]
    allowed = {root / f"{name}.py" for name in ("definitions", "runs", "webserver", "cli")}
    for path, named in _imports("txn_platform").items():
        if not {root / "defs", root / "workers"} & {*path.parents} and path not in allowed:
            assert "dagster" not in named, path


def test_the_source_knows_nothing_of_the_platform() -> None:
    for path, named in _imports("generator_service").items():
        assert "txn_platform" not in named, path


def test_the_platform_knows_the_source_over_http_only() -> None:
    for path, named in _imports("txn_platform").items():
        assert "generator_service" not in named, path
