"""Mutation testing of the modules that the promise rests on: `make mutants`.

Puts small errors into the code, one at a time, and runs the tests that execute the changed line.
A mutant that no test fails on is a survivor: it is equivalent, or a test is missing.

The work is done in clones of the checkout, so that the checkout is never changed. First the whole
suite runs once under coverage, which says for each line which tests execute it. Then each mutant
meets those tests, its package's first, until one fails.

    python benchmarks/mutation.py --mutants 300 --seed 1 --output mutants.json
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import coverage

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = [
    "backoff",
    "card_key",
    "contract/card_numbers",
    "defs/*",
    "lake/*",
    "network",
    "rows/*",
    "source/*",
]

_ROOT = Path(__file__).parent.parent
_CONFIGURATION = """
[run]
source = txn_platform
context = ${PYTEST_CURRENT_TEST-none}
parallel = true
patch = subprocess
"""
# The suffix that coverage or pytest appends to the name of a test.
_STAGE = re.compile(r"\|(run|setup|teardown)$| \((call|setup|teardown)\)$")
_COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
}


@dataclass(frozen=True)
class Mutant:
    """One small error.

    Attributes:
        path: the module, relative to the checkout.
        line: the first line of the changed statement.
        lines: all lines that it spans.
        kind: the kind of error.
        change: the code before and after.
        source: the whole module with the error.
    """

    path: str
    line: int
    lines: tuple[int, int]
    kind: str
    change: str
    source: str = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """The fate of a mutant: `killed` by a test, `timeout`, `survived`, or `uncovered`."""

    path: str
    line: int
    kind: str
    change: str
    fate: str
    by: str
    seconds: float


def mutants(path: Path, root: Path) -> Iterator[Mutant]:
    """Every mutant of a module; annotations, docstrings and messages are left alone."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line.encode()))
    encoded = text.encode()

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        return (
            offsets[node.lineno - 1] + node.col_offset,
            offsets[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0),
        )

    for statement, node in _walk(tree):
        for kind, target, new in _changes(node):
            first, last = span(target)
            before = encoded[first:last].decode()
            changed = (encoded[:first] + new.encode() + encoded[last:]).decode()
            try:
                ast.parse(changed)
            except SyntaxError:
                continue
            yield Mutant(
                path=str(path.relative_to(root)),
                line=node.lineno,
                lines=(statement.lineno, statement.end_lineno or statement.lineno),
                kind=kind,
                change=f"{' '.join(before.split())[:70]}  =>  {' '.join(new.split())[:70]}",
                source=changed,
            )


def _walk(tree: ast.AST) -> Iterator[tuple[ast.stmt, ast.expr | ast.stmt]]:
    """Every node that runs, with its statement."""

    def visit(
        node: ast.AST, statement: ast.stmt | None
    ) -> Iterator[tuple[ast.stmt, ast.expr | ast.stmt]]:
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "type_params"}:
                continue
            for inner_node in value if isinstance(value, list) else [value]:
                if not isinstance(inner_node, ast.AST) or isinstance(
                    inner_node, (ast.Raise, ast.JoinedStr)
                ):
                    # Messages are tested where users read them, not word by word.
                    if isinstance(inner_node, ast.Raise) and statement is not None:
                        yield inner_node, inner_node
                    continue
                if _is_type_checking(inner_node):
                    continue
                inner = inner_node if isinstance(inner_node, ast.stmt) else statement
                if inner is not None and isinstance(inner_node, (ast.expr, ast.stmt)):
                    yield inner, inner_node
                yield from visit(inner_node, inner)

    yield from visit(tree, None)


def _is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    """The kinds of errors that one node can have: kind, changed node, its new text."""
    yield from _changes_of_operators(node)
    yield from _changes_of_conditions(node)
    yield from _changes_of_statements(node)


def _changes_of_operators(
    node: ast.expr | ast.stmt,
) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    match node:
        case ast.Compare(left, [operator], [right]):
            for other in _COMPARISONS.get(type(operator), []):
                yield "comparison", node, ast.unparse(ast.Compare(left, [other()], [right]))
        case ast.BoolOp(operator, values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield "and/or", node, f"({ast.unparse(ast.BoolOp(other, values))})"
            for index in range(len(values)):
                rest = [value for other, value in enumerate(values) if other != index]
                kept = rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
                yield "condition dropped", node, f"({ast.unparse(kept)})"
        case ast.UnaryOp(ast.Not(), operand):
            yield "not dropped", node, f"({ast.unparse(operand)})"
        case ast.UnaryOp(ast.Invert(), operand):
            yield "not dropped", node, f"({ast.unparse(operand)})"
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            other = _OPERATORS[type(operator)]()
            yield "arithmetic", node, f"({ast.unparse(ast.BinOp(left, other, right))})"
        case ast.Constant(bool() as value):
            yield "constant", node, str(not value)
        case ast.Constant(int() as value):
            yield "constant", node, str(value + 1)
        case _:
            return


def _changes_of_conditions(
    node: ast.expr | ast.stmt,
) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    match node:
        case ast.If(test) | ast.While(test) | ast.IfExp(test):
            yield "condition", test, f"(not ({ast.unparse(test)}))"
            if isinstance(node, ast.If):
                yield "condition always", test, "True"
                yield "condition never", test, "False"
        case _:
            return


def _changes_of_statements(
    node: ast.expr | ast.stmt,
) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    match node:
        case ast.Return(value) if value is not None and not (
            isinstance(value, ast.Constant) and value.value is None
        ):
            yield "return", value, "None"
        case ast.Expr(ast.Call() | ast.Await() | ast.Yield() | ast.YieldFrom()):
            yield "statement dropped", node, "pass"
        case ast.AugAssign():
            yield "statement dropped", node, "pass"
        case ast.Raise():
            yield "raise dropped", node, "pass"
        case ast.Break():
            yield "loop", node, "continue"
        case ast.Continue():
            yield "loop", node, "break"
        case ast.Call(function, arguments, keywords) if keywords:
            for index in range(len(keywords)):
                rest = [each for other, each in enumerate(keywords) if other != index]
                yield "argument dropped", node, ast.unparse(ast.Call(function, arguments, rest))
        case _:
            return


def _run(command: list[str], tree: Path, seconds: float, **environment: str) -> int | None:
    """Run a command in a process group of its own; None when it takes too long."""
    process = subprocess.Popen(
        command,
        cwd=tree,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # A mutant can leave processes behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _clone(tree: Path) -> None:
    """A clone of the checkout's HEAD with an environment of its own."""
    subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(tree)], check=True)
    subprocess.run(["make", "setup"], cwd=tree, check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Tests:
    """Which tests execute which line, and how long each takes."""

    by_line: dict[tuple[str, int], set[str]]
    seconds: dict[str, float]

    @classmethod
    def collect(cls, tree: Path) -> Tests:
        """Run the suite once under coverage."""
        configuration = tree / ".mutation-coveragerc"
        configuration.write_text(_CONFIGURATION)
        subprocess.run(
            [
                str(tree / ".venv/bin/python"), "-m", "pytest",
                "--cov", f"--cov-config={configuration}", "--cov-context=test", "--cov-report=",
                "--junitxml=.mutation-tests.xml", "-o", "junit_family=xunit1",
            ],
            cwd=tree,
            check=False,
            env={**os.environ, "COVERAGE_CORE": "ctrace"},
        )  # fmt: skip
        return cls.read(tree)

    @classmethod
    def read(cls, tree: Path) -> Tests:
        """Read what a run of the suite recorded."""
        seconds: dict[str, float] = {}
        for case in ElementTree.parse(tree / ".mutation-tests.xml").iter("testcase"):  # noqa: S314 - our own file
            seconds[f"{case.get('file')}::{case.get('name')}"] = float(case.get("time") or 0)
        data = coverage.CoverageData(str(tree / ".coverage"))
        data.read()
        by_line: dict[tuple[str, int], set[str]] = defaultdict(set)
        for measured in data.measured_files():
            relative = str(Path(measured).relative_to(tree))
            for line, contexts in data.contexts_by_lineno(measured).items():
                for context in contexts:
                    # In process: "none|node|run". A child process has its parent's "node (call)".
                    node = _STAGE.sub("", context.removeprefix("none|"))
                    if node in seconds:
                        by_line[relative, line].add(node)
        return cls(by_line, seconds)

    def of(self, mutant: Mutant) -> list[str]:
        """The tests to run for a mutant: those of its package first, and the fastest first."""
        first, last = mutant.lines
        found = self.by_line.get((mutant.path, mutant.line), set())
        if not found:
            # Coverage counts a statement of several lines at its first.
            found = {
                node
                for line in range(first, last + 1)
                for node in self.by_line.get((mutant.path, line), set())
            }
        if not found:
            # No test alone runs the code of an import: any test of the module may notice it.
            found = {
                node
                for (path, _), nodes in self.by_line.items()
                if path == mutant.path
                for node in nodes
            }
        own = str(Path("txn_platform_tests", *Path(mutant.path).parts[1:-1], ""))
        return sorted(
            found,
            key=lambda node: (not node.startswith(own), self.seconds.get(node, 1.0), node),
        )


def _meet_tests(mutant: Mutant, tests: Tests, tree: Path, most: float) -> Outcome:
    started = time.monotonic()
    chosen = tests.of(mutant)
    fate, by = "uncovered", ""
    path = tree / mutant.path
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        # A few fast tests first: most mutants do not outlive them.
        for nodes in (chosen[:25], _within(chosen[25:], tests, most)):
            if not nodes:
                break
            expected = sum(tests.seconds.get(node, 1.0) for node in nodes)
            code = _run(
                [str(tree / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-n0",
                 "-p", "no:cacheprovider", "-p", "no:cov", *nodes],
                tree,
                60 + 4 * expected,
            )  # fmt: skip
            fate = "timeout" if code is None else "killed" if code else "survived"
            by = f"{len(nodes)} of {len(chosen)} tests"
            if fate != "survived":
                break
    finally:
        path.write_text(original, encoding="utf-8")
    return Outcome(
        mutant.path, mutant.line, mutant.kind, mutant.change, fate, by, time.monotonic() - started
    )


def _within(nodes: list[str], tests: Tests, most: float) -> list[str]:
    """Return the first tests that take at most so many seconds together, at least one."""
    seconds = 0.0
    for number, node in enumerate(nodes):
        seconds += tests.seconds.get(node, 1.0)
        if seconds > most:
            return nodes[: max(number, 1)]
    return nodes


def _sample(tree: Path, modules: list[str], count: int, seed: int) -> list[Mutant]:
    """A random sample of a clone's, spread over the modules by their number of mutants."""
    package = tree / "txn_platform"
    paths = sorted({path for name in modules for path in package.glob(f"{name}.py")})
    found = [mutant for path in paths for mutant in mutants(path, tree)]
    chosen = random.Random(seed)  # noqa: S311 - a sample, not a secret
    return chosen.sample(found, min(count, len(found)))


def main() -> None:
    """Make mutants, run the tests on them, and print the outcomes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=300, help="how many; default 300")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modules", nargs="*", default=list(MODULES), help="below txn_platform")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--most", type=float, default=60, help="seconds of tests that a mutant has to outlive"
    )
    parser.add_argument("--output", type=Path, default=Path("mutants.json"))
    parser.add_argument("--resume", action="store_true", help="go on with what --output has")
    parser.add_argument("--collected", type=Path, help="a clone with the records of an earlier run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.workers):
            tree = Path(directory, str(number))
            _clone(tree)
            trees.put(tree)
        tree = trees.get()
        sample = _sample(tree, options.modules, options.mutants, options.seed)
        trees.put(tree)
        if options.collected:
            tests = Tests.read(options.collected)
        else:
            tree = trees.get()
            tests = Tests.collect(tree)
            trees.put(tree)
        lock = threading.Lock()
        outcomes: list[Outcome] = []
        if options.resume:
            outcomes += [Outcome(**each) for each in json.loads(options.output.read_text())]
        known = {(each.path, each.line, each.kind, each.change) for each in outcomes}
        left = [
            each for each in sample if (each.path, each.line, each.kind, each.change) not in known
        ]

        def work(mutant: Mutant) -> None:
            tree = trees.get()
            try:
                outcome = _meet_tests(mutant, tests, tree, options.most)
            finally:
                trees.put(tree)
            with lock:
                outcomes.append(outcome)
                print(
                    f"{len(outcomes):4} of {len(sample)}  {outcome.fate:9} {outcome.seconds:6.1f} s"
                    f"  {outcome.path}:{outcome.line}  {outcome.kind}: {outcome.change}",
                    flush=True,
                )
                options.output.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))

        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(work, left))
    killed = sum(outcome.fate in {"killed", "timeout"} for outcome in outcomes)
    print(
        f"{killed} of {len(outcomes)} killed ({killed / max(len(outcomes), 1):.1%});"
        f" see {options.output}"
    )
    sys.exit(killed < 0.9 * len(outcomes))


if __name__ == "__main__":
    main()
