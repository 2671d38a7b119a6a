"""The service keeps to its description: schemathesis sends requests that it allows and forbids.

It also goes from one answer to the next (`stateful`). Each answer must have a status, a media type,
headers and a body that the description has, and none may be a server's error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from generator_service.keys import KeysFile, Scope
from txn_platform_tests.generator_service.test_service_process import service

if TYPE_CHECKING:
    from collections.abc import Iterator

_SMALL = {"GENERATOR_TPS": "0.05", "GENERATOR_ACCESS_LOG": "false"}
_CONFIG = """\
[checks]
# A description cannot say that a window's end is after its start: some that it allows are refused.
positive_data_acceptance.enabled = false
# A wrong value may also be too long.
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 414, 422, 431]
"""
_CASES = re.compile(r"([\d,]+) generated")


# With keys there is one more way to be refused; all else is the same.
@pytest.fixture(params=[pytest.param("without keys", marks=pytest.mark.long), "with keys"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a service, and the options that let schemathesis in."""
    if request.param == "without keys":
        with service(**_SMALL) as (_, url):
            yield url, []
        return
    file = KeysFile(tmp_path / "keys.json")
    key = file.add("fuzzing", (Scope.TRANSACTIONS, Scope.REFERENCE, Scope.METRICS), 1_000_000)
    with service(**_SMALL, GENERATOR_KEYS_FILE=str(file.path)) as (_, url):
        yield url, ["--header", f"Authorization: Bearer {key}"]


def _fuzzed(url: str, *options: str) -> int:
    """Send requests, and return how many; fails when an answer is not as described."""
    Path("schemathesis.toml").write_text(_CONFIG)
    command = [
        Path(sys.executable).with_name("schemathesis"),
        *("--config-file", "schemathesis.toml", "--no-color"),
        *("run", f"{url}/openapi.json", "--mode", "all", "--generation-deterministic"),
        *("--request-timeout", "120"),
        *options,
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-20_000:] + process.stderr
    found = _CASES.search(process.stdout)
    assert found, process.stdout
    return int(found[1].replace(",", ""))


def test_answers_are_as_described(served: tuple[str, list[str]]) -> None:
    url, options = served
    phases = ("--phases", "fuzzing,stateful", "--max-examples", "10")
    assert _fuzzed(url, *options, *phases) > 100


@pytest.mark.long
def test_ten_thousand_answers_are_as_described(served: tuple[str, list[str]]) -> None:
    url, options = served
    phases = ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "600")
    assert _fuzzed(url, *options, *phases) >= 10_000
