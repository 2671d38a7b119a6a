"""Run one command that never outlives its owner: `supervisor.py GRACE SIGNAL USER COMMAND...`.

SIGNAL is the number of the signal that asks the command to end, 0 for SIGTERM to its whole group.
USER is `uid:gid` of the user whom the command runs as, or `-` for the user of this process.

`processes.ManagedProcess` starts it by path. It imports the standard library only, because it must
start in milliseconds. Time limits and messages for users are in `processes`.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess  # nosec B404 # each use has its reason
import sys
import time
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CANNOT_START = 127


def main(grace: float, stop_signal: int, user: str, command: list[str]) -> int:
    """Run `command` in a session of its own until it ends, or until this process must end.

    This process ends when its standard input closes, which the death of its owner causes, or on
    SIGTERM, SIGINT or SIGHUP. Then the command gets `stop_signal` if there is one. When it has
    ended, or at once without a `stop_signal`, the remaining processes of its group get SIGTERM.
    After `grace` seconds they get SIGKILL.

    Returns:
        The command's exit code; 128 plus the signal's number when a signal ended it; 127 when it
        could not be started.
    """
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _only_wake_up)
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    if prctl:
        # Orphans of the command become children of this process, which reaps them: a zombie still
        # counts as a member of its process group.
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()

    def tie() -> None:
        # SIGTERM lets the command end its own children.
        if prctl:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(_CANNOT_START)

    uid, _, gid = user.partition(":")
    try:
        process = subprocess.Popen(  # nosec B603 # noqa: S603 - its purpose
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # Called after the change of the user, which would undo it.
            preexec_fn=tie,  # noqa: PLW1509 - there are no threads here
            user=int(uid) if gid else None,
            group=int(gid) if gid else None,
            extra_groups=() if gid else None,
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return _CANNOT_START
    leader = process.pid
    codes: dict[int, int] = {}
    while leader not in codes:
        ready, _, _ = select.select([0, wake], [], [])
        if 0 in ready and not os.read(0, 1024):
            break
        if wake in ready and set(os.read(wake, 1024)) != {signal.SIGCHLD}:
            break
        _reap(codes)
    _end_group(leader, codes, grace, stop_signal)
    return codes[leader] if codes[leader] >= 0 else 128 - codes[leader]


def _only_wake_up(_number: int, _frame: object) -> None:
    """Do nothing: only signals with a Python handler are written to the wake-up pipe."""


def _reap(codes: dict[int, int]) -> None:
    """Reap all ended processes, and store their exit codes by process id."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            codes[ended[0]] = os.waitstatus_to_exitcode(ended[1])


def _end_group(leader: int, codes: dict[int, int], grace: float, stop_signal: int) -> None:
    deadline = time.monotonic() + grace
    waits = stop_signal and leader not in codes
    if waits:
        # Not reaped yet: the number is still that of the command.
        os.kill(leader, stop_signal)
    else:
        _signal_group(leader, signal.SIGTERM)
    while leader not in codes or _signal_group(leader, 0):
        if waits and leader in codes:
            waits = False
            _signal_group(leader, signal.SIGTERM)
        if time.monotonic() > deadline:
            _signal_group(leader, signal.SIGKILL)
        time.sleep(0.01)
        _reap(codes)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
