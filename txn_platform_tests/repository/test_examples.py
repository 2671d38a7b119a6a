"""The examples of README and the pages run, or say why they do not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from txn_platform_tests.support.examples import (
    CHECKOUT,
    LANGUAGES,
    PAGE,
    Block,
    Session,
    blocks,
    evaluate,
    listing,
    pages,
    starts_its_source,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BLOCKS = {page: blocks(page) for page in pages()}
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})(.*)\n(?:.*\n)*?[ \t]*\1[ \t]*$", re.MULTILINE)


def _pages_where(condition: Callable[[Block], bool]) -> list[Path]:
    return [page for page, found in _BLOCKS.items() if any(map(condition, found))]


def _name(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


@pytest.mark.parametrize(
    "page",
    _pages_where(lambda block: block.is_run and "long" not in block.instructions),
    ids=_name,
)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, generator_url: str) -> None:
    source = "" if starts_its_source(page) else generator_url
    with Session(tmp_path, long=False, source=source) as session:
        evaluate(page, session.run)


@pytest.mark.long
@pytest.mark.parametrize(
    "page", _pages_where(lambda block: "long" in block.instructions), ids=_name
)
def test_all_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    with Session(tmp_path, long=True) as session:
        evaluate(page, session.run)


@pytest.mark.parametrize("page", _BLOCKS, ids=_name)
def test_every_block_has_a_language_that_is_known(page: Path) -> None:
    """Otherwise a shell example under another name would not run."""
    languages = {language.strip() for _, language in _FENCE.findall(page.read_text("utf-8"))}
    assert languages <= set(LANGUAGES)


def test_the_list_of_examples_that_do_not_run_is_current() -> None:
    assert PAGE.read_text("utf-8") == listing(), "run `make docs`"


def test_the_translation_has_the_same_examples() -> None:
    page = CHECKOUT / "README.pt-BR.md"
    own, original = (
        [(block.language, block.source) for block in blocks(each)]
        for each in (page, CHECKOUT / "README.md")
    )
    assert own == original


def _evaluated(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    with Session(tmp_path, long=True) as session:
        evaluate(page, session.run)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```sh\nfalse\ntrue\n```\n", "ended with exit code 1"),
        ("```sh\nfalse | true\n```\n", "ended with exit code 1"),
        ("```python\n1 / 0\n```\n", "raised an error"),
        ("```python\nexit()\n```\n", "raised an error"),
        (
            "```sh\necho a c\n```\n<!-- example: output -->\n```text\na b\n```\n",
            "not in the output",
        ),
        ("<!-- example: background up -->\n```sh\necho down\n```\n", "did not print the text"),
    ],
)
def test_an_example_that_is_wrong_is_reported(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        _evaluated(tmp_path, text)


def test_the_blocks_of_a_page_belong_together(tmp_path: Path) -> None:
    _evaluated(
        tmp_path,
        """
<!-- invisible-code-block: sh
mkdir inner
-->

```sh
cd inner
export NAME=value
unset GENERATOR_TPS
```

<!-- example: file inner/mine.py -->
```python
found = 1
```

```sh
test $NAME = value -a -z "$GENERATOR_TPS"
python -c "import mine; print(mine.found + 1, 'rows')"
```

<!-- example: output -->
```text
2 ...s
```

<!-- skip: next "it would fail" -->
```sh
false
```

```python
import os
assert os.environ["NAME"] == "value"
assert "GENERATOR_TPS" not in os.environ
assert os.path.basename(os.getcwd()) == "inner"
```

```python
assert os.sep
```
""",
    )


@pytest.mark.parametrize("comment", ["example: lang", "skip: next"])
def test_a_comment_that_says_nothing_is_refused(tmp_path: Path, comment: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {comment} -->\n```sh\nfalse\n```\n")
    with pytest.raises(ValueError, match=r"unknown instruction|no reason"):
        blocks(page)
