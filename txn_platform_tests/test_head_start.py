"""Which commands have a generator begun before their run asks for it, and what becomes of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import click
import pytest

from txn_platform.defs import checks, head_start


@dataclass(eq=False)
class _Child:
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[_Child]]:
    """The generators that were started, none of them real."""
    children: list[_Child] = []

    def start() -> _Child:
        children.append(_Child())
        return children[-1]

    monkeypatch.setattr(head_start, "generator_child", start)
    yield children
    head_start.give_up()


def _begin(command: str, **options: str) -> None:
    context = click.Context(click.Command(command), info_name=command)
    context.params.update(options)
    with context:
        head_start.begin()


@pytest.mark.parametrize("selected", ["*", checks.RAW, f"{checks.RAW}+", "*x,other"])
def test_a_command_that_lands_has_one_begun(begun: list[_Child], selected: str) -> None:
    _begin("materialize", select=selected)
    (child,) = begun
    assert head_start.generator() is child
    # Who asks again gets another.
    assert head_start.generator() is not child
    assert not child.stopped


@pytest.mark.parametrize(
    ("command", "options", "environment"),
    [
        ("materialize", {"select": "validation"}, {}),
        ("materialize", {}, {}),
        ("materialize", {"select": "*"}, {"GENERATOR_URL": "http://127.0.0.1:9"}),
        ("materialize", {"select": "*"}, {"GENERATOR_URL": "nonsense"}),
        ("materialize", {"select": "*"}, {"TXN_MAX_QUARANTINE": "nonsense"}),
        ("list", {"select": "*"}, {}),
        ("grpc", {}, {}),
    ],
)
def test_others_have_none_begun(
    begun: list[_Child],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: dict[str, str],
    environment: dict[str, str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _begin(command, **options)
    assert begun == []


def test_what_was_begun_in_vain_is_stopped(begun: list[_Child]) -> None:
    _begin("materialize", select="*")
    head_start.give_up()
    (child,) = begun
    assert child.stopped
    assert head_start.generator() is not child


def test_without_a_command_nothing_is_begun(begun: list[_Child]) -> None:
    head_start.begin()
    assert begun == []
