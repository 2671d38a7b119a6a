"""No managed process outlives its owner, and a failed one reports why."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import psutil
import pytest

from txn_platform.errors import UserError
from txn_platform.local import processes
from txn_platform.local.processes import (
    ManagedProcess,
    ProcessFailed,
    free_ports,
    generator_url,
    start_generator,
)
from txn_platform_tests.conftest import eventually, gone

if TYPE_CHECKING:
    from pathlib import Path

# Each prints its own number and, where it has one, its process's, when all is in place.
FAMILY = ["sh", "-c", "sleep 1000 & echo $$ $!.; wait"]
STUBBORN_FAMILY = ["sh", "-c", "trap '' TERM; sleep 1000 & echo $$ $!.; wait; sleep 1000"]
WATCHER = ["sh", "-c", "echo $$.; read line"]

PARENT = """
import signal, sys, time
# `nohup` has its children ignore it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from txn_platform.local.processes import ManagedProcess
process = ManagedProcess("process", sys.argv[3:], watches_stdin=sys.argv[1] == "watches", grace=0.5)
process.wait_until(lambda: "." in process.output(), timeout=60)
print(process.pid, process.output().replace(".", ""), flush=True)
if sys.argv[2] == "stays":
    time.sleep(1000)
if sys.argv[2] == "raises":
    raise RuntimeError
"""


def running(numbers: str) -> list[psutil.Process]:
    return [psutil.Process(int(number)) for number in numbers.replace(".", "").split()]


def all_gone(processes_: list[psutil.Process]) -> bool:
    return eventually(lambda: all(map(gone, processes_)))


def started(command: list[str], **options: object) -> tuple[ManagedProcess, list[psutil.Process]]:
    process = ManagedProcess("process", command, **options)
    process.wait_until(lambda: "." in process.output(), timeout=60)
    return process, running(process.output())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    ("mode", "command"),
    [("supervised", FAMILY), ("supervised", STUBBORN_FAMILY), ("watches", WATCHER)],
    ids=["family", "stubborn family", "watcher"],
)
def test_a_signal_that_ends_the_parent_ends_its_children_and_theirs(
    number: int, mode: str, command: list[str]
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, mode, "stays", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        family = running(parent.stdout.readline())
        assert not any(map(gone, family))
        parent.send_signal(number)
    assert all_gone(family)


@pytest.mark.parametrize("end", ["returns", "raises"])
def test_a_parent_that_ends_has_stopped_its_children_by_then(end: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PARENT, "supervised", end, *STUBBORN_FAMILY],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    family = [int(number) for number in result.stdout.split()]
    assert len(family) == 3
    assert all(not psutil.pid_exists(number) or gone(psutil.Process(number)) for number in family)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_killed_supervisor_does_not_leave_its_command() -> None:
    process, command = started(["sh", "-c", "echo $$.; exec sleep 1000"])
    with process:
        os.kill(process.pid, signal.SIGKILL)
        assert all_gone(command)


def test_a_command_that_ends_takes_what_it_started_along(tmp_path: Path) -> None:
    may_end = tmp_path / "may-end"
    os.mkfifo(may_end)
    process, family = started(["sh", "-c", f"sleep 1000 & echo $$ $!.; read line < {may_end}"])
    with process:
        may_end.write_text("now\n")
        assert all_gone(family)
        assert eventually(lambda: not process.alive)


@pytest.mark.parametrize("command", [FAMILY, STUBBORN_FAMILY], ids=["family", "stubborn family"])
def test_stop_has_ended_the_whole_family_when_it_returns(command: list[str]) -> None:
    process, family = started(command, grace=0.3)
    process.stop()
    assert all(map(gone, family))
    assert not process.alive
    process.stop()


def test_a_watcher_that_ignores_both_its_input_and_sigterm_is_killed() -> None:
    command = ["sh", "-c", "trap '' TERM; echo $$.; while :; do sleep 0.1; done"]
    process, family = started(command, watches_stdin=True, grace=0.3)
    process.stop()
    assert all(map(gone, family))


@pytest.mark.parametrize("watches_stdin", [False, True])
@pytest.mark.parametrize("with_log", [False, True])
def test_a_command_that_fails_is_named_with_its_exit_code_and_last_lines(
    watches_stdin: bool, with_log: bool, tmp_path: Path
) -> None:
    program = "for i in $(seq 100); do echo line $i; done; echo no such bucket >&2; exit 3"
    log = tmp_path / "store.log" if with_log else None
    process = ManagedProcess(
        "The store", ["sh", "-c", program], log=log, watches_stdin=watches_stdin
    )
    with pytest.raises(ProcessFailed) as caught:
        process.wait_until(lambda: None, timeout=60)
    message = str(caught.value)
    assert message.startswith("The store ended with exit code 3.")
    assert "line 99\n" in message
    assert "no such bucket" in message
    assert "line 50\n" not in message
    assert (str(log) in message) == with_log
    with pytest.raises(ProcessFailed, match="exit code 3"):
        process.check()


def test_a_command_that_a_signal_killed_has_the_exit_code_shells_give_it() -> None:
    process = ManagedProcess("The store", ["sh", "-c", "kill -9 $$"])
    with pytest.raises(ProcessFailed, match=r"exit code 137\. It printed nothing\."):
        process.wait_until(lambda: None, timeout=60)


@pytest.mark.parametrize("watches_stdin", [False, True])
def test_a_command_that_does_not_exist_is_named(watches_stdin: bool) -> None:
    with pytest.raises(ProcessFailed, match="no-such-command"):
        ManagedProcess("The store", ["no-such-command"], watches_stdin=watches_stdin).wait_until(
            lambda: None, timeout=60
        )


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="no-such-directory"):
        ManagedProcess("The store", ["true"], log=tmp_path / "no-such-directory" / "log")


def test_a_log_that_somebody_removed_does_not_hide_why_the_process_failed(tmp_path: Path) -> None:
    process = ManagedProcess("The store", ["true"], log=tmp_path / "log")
    (tmp_path / "log").unlink()
    with pytest.raises(
        ProcessFailed, match=r"The store ended with exit code 0\. It printed nothing"
    ):
        process.wait_until(lambda: None, timeout=60)


def test_a_command_that_is_not_ready_in_time_is_stopped_and_said_to_be_late() -> None:
    process, family = started(FAMILY)
    with pytest.raises(ProcessFailed, match=r"process was not ready within 0\.1 s"):
        process.wait_until(lambda: None, timeout=0.1)
    assert all(map(gone, family))


def test_an_answer_from_someone_else_does_not_count_once_the_command_has_ended() -> None:
    process = ManagedProcess("The store", ["true"])
    assert eventually(lambda: not process.alive)
    with pytest.raises(ProcessFailed, match="exit code 0"):
        process.wait_until(lambda: "somebody answers", timeout=60)


def test_output_in_memory_is_the_end_of_it_and_bounded() -> None:
    with ManagedProcess("process", ["sh", "-c", "seq 200000; echo end.; sleep 1000"]) as process:
        process.wait_until(lambda: process.output().endswith("end.\n"), timeout=60)
        assert "200000\nend.\n" in process.output()
        assert len(process.output()) == 64 * 1024


def test_a_log_holds_all_output_of_the_last_run_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of the run before")
    with ManagedProcess(
        "process", ["sh", "-c", "seq 20000; echo end. >&2; sleep 1000"], log=log
    ) as process:
        process.wait_until(lambda: process.output().endswith("end.\n"), timeout=60)
    assert log.read_text().splitlines() == [*map(str, range(1, 20001)), "end."]


def test_a_lock_handed_over_is_held_until_the_command_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process, _ = started(FAMILY, holds=[lock.fileno()])
    with path.open("w") as other:
        with process, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_free_ports_are_different_and_servers_can_listen_on_them_and_10000_above() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        for number in (port, port + 10_000):
            socket.create_server(("127.0.0.1", number)).close()


@pytest.mark.parametrize("offset", [0, 10_000])
def test_a_port_in_use_is_not_free_and_too_few_free_ports_are_an_error(
    offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(processes, "_PORTS", range(port, port + 1))
    with (
        socket.create_server(("127.0.0.1", port + offset)),
        pytest.raises(UserError, match=f"Only 0 of 1 ports .* between {port} and {port}"),
    ):
        free_ports(1)


def test_a_generator_of_ones_own_answers_as_soon_as_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GENERATOR_CUSTOMERS", "200")
    monkeypatch.setenv("GENERATOR_MERCHANTS", "100")
    with (
        start_generator() as process,
        urllib.request.urlopen(f"{generator_url(process)}/healthz", timeout=10) as response,
    ):
        assert response.status == 200


def test_a_generator_that_does_not_start_gives_the_reason_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        with pytest.raises(UserError, match=f"^cannot listen on .*{port}.* GENERATOR_PORT") as used:
            generator_url(start_generator(port=port))
    wrong = {**os.environ, "GENERATOR_PORT": "tcp://10.0.0.1:80"}
    with pytest.raises(UserError, match=r"^GENERATOR_PORT=.*Kubernetes") as set_wrongly:
        generator_url(start_generator(port=None, environment=wrong))
    assert "\n" not in str(used.value) + str(set_wrongly.value)
