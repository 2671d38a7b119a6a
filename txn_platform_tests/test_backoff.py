"""Retries: their number, their pauses and the warning about each."""

import logging
import threading
import time

import pytest

from txn_platform.backoff import Backoff, Retries


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(6, first_pause=1, longest_pause=5, jitter=(1, 1))
    assert list(backoff.pauses()) == [1, 2, 4, 5, 5]


def test_a_pause_is_a_random_share_of_its_nominal_length() -> None:
    backoff = Backoff(1_001, first_pause=4, longest_pause=4, jitter=(0.25, 0.75))
    pauses = list(backoff.pauses())
    assert 1 <= min(pauses) < 1.5
    assert 2.5 < max(pauses) <= 3


def test_no_pause_is_longer_than_the_longest() -> None:
    backoff = Backoff(100, first_pause=1, longest_pause=3, jitter=(1, 1.25))
    assert max(backoff.pauses()) == 3


def test_each_retry_is_logged_once_with_cause_attempt_and_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    retries = Retries(Backoff(3, first_pause=0.001, longest_pause=0.1))
    assert [retries.again("it failed", at_least=0.02) for _ in range(3)] == [True, True, False]
    assert retries.attempt == 3
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"it failed; attempt {number} of 3, trying again in 0.0 s")
        for number in (1, 2)
    ]


def test_what_the_server_asks_for_is_waited_up_to_the_longest_pause() -> None:
    retries = Retries(Backoff(2, first_pause=0, longest_pause=0.2))
    assert retries.again("it failed", at_least=3_600)
    assert 0.2 <= retries.seconds < 60


def test_nothing_is_retried_once_stopped(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    stop.set()
    assert not Retries(Backoff(3, 60, 60), stop).again("it failed")
    assert not caplog.records


def test_stopping_ends_a_pause() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    begun = time.monotonic()
    assert not Retries(Backoff(3, 60, 60, jitter=(1, 1)), stop).again("it failed")
    assert time.monotonic() - begun < 30
