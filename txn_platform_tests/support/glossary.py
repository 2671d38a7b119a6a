"""Check the words of the code and the docs against `docs/glossary.md`: part of `make lint`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECKOUT = Path(__file__).parents[2]
_GLOSSARY = "docs/glossary.md"
# These files are about the words.
_EXEMPT = {_GLOSSARY, "txn_platform_tests/repository/test_glossary.py"}
# Names that contain a word to avoid and cannot change.
_EXEMPT_NAMES = {
    # The digest of a configuration contains the name of this field.
    ("generator_service/simulator/pools.py", "places"),
    # The name that Linux gives this constant.
    ("txn_platform/local/supervisor.py", "_PR_SET_CHILD_SUBREAPER"),
}
_ROW = re.compile(r"^\| ([a-z]+) \| (.+) \| (identifier|everywhere) \|$", re.MULTILINE)
# A sentence that begins with "What" and is no question.
_WHAT = re.compile(r'(?:^\W*|[.:;] |"""|# )What (?![^.]*\?)')
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def rules(glossary: str) -> dict[str, tuple[str, str]]:
    """Return for each word to avoid: the word to write, and where the rule holds."""
    return {word: (instead, where) for word, instead, where in _ROW.findall(glossary)}


def violations(path: str, text: str, avoided: dict[str, tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each word of a file that the glossary avoids, and each "What" sentence."""
    everywhere = [word for word, (_, where) in avoided.items() if where == "everywhere"]
    whole = re.compile(rf"\b({'|'.join(everywhere)})\b", re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), 1):
        for word in whole.findall(line):
            yield f"{path}:{number}: {word!r}: write {avoided[word.lower()][0]}"
        if _WHAT.search(line):
            yield f"{path}:{number}: a sentence begins with 'What': name the subject"
    if path.endswith(".py"):
        for number, name in _names(ast.parse(text)):
            if (path, name) in _EXEMPT_NAMES:
                continue
            for word in {part.lower() for part in _PART.findall(name)} & avoided.keys():
                yield f"{path}:{number}: {name}: write {avoided[word][0]}"


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a file defines, and their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.Name(name, ast.Store()) | ast.Attribute(_, name, ast.Store()):
                yield node.lineno, name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.alias(asname=str(name)):
                yield node.lineno, name
            case _:
                pass


def main() -> int:
    """Print the violations; exit code 1 when there is one."""
    avoided = rules((_CHECKOUT / _GLOSSARY).read_text("utf-8"))
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "Makefile", ".ci/run"],
        cwd=_CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = [
        line
        for path in listed.stdout.splitlines()
        if path not in _EXEMPT
        for line in violations(path, (_CHECKOUT / path).read_text("utf-8"), avoided)
    ]
    print("\n".join(found), end="\n" * bool(found))  # noqa: T201 - a program's output
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
