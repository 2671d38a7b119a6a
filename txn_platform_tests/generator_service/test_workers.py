"""Several processes serve one port: one service to its clients, and nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import psutil
import pytest

from txn_platform_tests.conftest import eventually, gone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKERS = 2
HOUR = "start=2026-11-01T00:00:00Z&end=2026-11-01T01:00:00Z"


class Service:
    """A service in several processes, with a directory for its temporary files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        environment = {
            **os.environ,
            "GENERATOR_WORKERS": str(WORKERS),
            "GENERATOR_CUSTOMERS": "200",
            "GENERATOR_MERCHANTS": "100",
            "GENERATOR_TPS": "1",
            "TMPDIR": str(directory),
        }
        command = [sys.executable, "-m", "generator_service", "--local", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--until-stdin-closes"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().rpartition(" ")[2].strip()

    def get(self, path: str) -> str:
        # A connection of its own, which any of the processes accepts.
        with urllib.request.urlopen(urljoin(self.url, path), timeout=60) as response:
            return response.read().decode()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def counted(self) -> int:
        """The requests for transactions that the service has answered."""
        counter = re.compile(r'^generator_requests_total{.*/transactions".*} (.*)$', re.MULTILINE)
        return int(sum(map(float, counter.findall(self.get("/metrics")))))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    with running.process:
        yield running
        running.process.kill()


def test_several_processes_are_one_service(service: Service) -> None:
    assert len(service.workers()) == WORKERS
    assert len(list(service.directory.glob("generator-metrics-*"))) == 1
    first = json.loads(service.get(f"/v1/transactions?{HOUR}&limit=5"))
    pages = [json.loads(service.get(first["next"])) for _ in range(8)]
    # Whichever process answers: the cursor of the first page, and the same rows.
    assert all(page == pages[0] for page in pages)
    assert eventually(lambda: service.counted() == 9)
    # A process that ends is replaced, and what it has counted stays.
    killed = service.workers()[0]
    killed.kill()
    assert eventually(lambda: len(service.workers()) == WORKERS and killed not in service.workers())
    assert json.loads(service.get(f"/v1/transactions?{HOUR}&limit=5")) == first
    assert eventually(lambda: service.counted() == 10)
    # And they end together.
    family = service.workers()
    service.process.terminate()
    assert service.process.wait(60) == 0
    assert all(map(gone, family))
    assert service.process.stderr
    assert service.process.stderr.read() == (
        f"generator_service: the worker process {killed.pid} has ended\n"
    )
    assert list(service.directory.iterdir()) == []


@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT", "standard input"])
def test_no_process_outlives_the_first(service: Service, end: str) -> None:
    family = service.workers()
    if end == "standard input":
        assert service.process.stdin
        service.process.stdin.close()
    else:
        service.process.send_signal(signal.Signals[end])
    service.process.wait(60)
    assert eventually(lambda: all(map(gone, family)))
    assert list(service.directory.iterdir()) == []


def test_processes_that_cannot_start_are_not_replaced(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from generator_service.workers import Workers\n"
        "def work(tell_ready): raise RuntimeError('it cannot')\n"
        "def say(*_): print('said', file=sys.stderr)\n"
        "sys.exit(Workers(work, on_ready=say, on_end=say, on_orphaned=say).run(1))\n"
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: it cannot") == 1
    assert done.stderr.endswith("said\n")
