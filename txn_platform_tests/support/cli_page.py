"""The page `docs/cli.md`, made from the commands themselves.

`python -m txn_platform_tests.support.cli_page` writes it.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Final

import click

from generator_service.cli import main as generator
from txn_platform.cli import main as txn
from txn_platform.extensions import command as extension

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path(__file__).parents[2] / "docs" / "cli.md"
_PAGE: Final = """\
# Commands

<!-- made by python -m txn_platform_tests.support.cli_page -->

`txn` is the platform's command line. The generator has one of its own, `python -m
generator_service`; `txn` offers its commands too. Each command answers `-h` and `--help`.

{commands}
"""


def page() -> str:
    """Return the page, Markdown."""
    context = click.Context(txn, info_name="txn", **txn.context_settings)
    parts = [
        "".join(_section(_loaded(name), f"txn {name}", context))
        for name in txn.list_commands(context)
    ]
    parts += _sections_of_the_generator("python -m generator_service")
    return _PAGE.format(commands="\n".join(parts).strip())


def _sections_of_the_generator(program: str) -> Iterator[str]:
    """Yield the section of its program, and those of its commands that `txn` does not have."""
    parent = click.Context(generator, info_name=program, **generator.context_settings)
    shared = {name for name in generator.commands if name in txn.commands}
    names = ", ".join(f"[`{each}`](#txn-{each})" for each in sorted(shared))
    yield "".join(_section(generator, program, None))
    yield f"These of its commands are also those of `txn`: {names}.\n"
    for name in sorted(generator.commands.keys() - shared):
        command = generator.commands[name]
        yield "".join(_section(command, f"{program} {name}", parent))
        if isinstance(command, click.Group):
            inner = click.Context(command, parent, info_name=name)
            for each in command.list_commands(inner):
                yield "".join(_section(command.commands[each], f"{program} {name} {each}", inner))


def _loaded(name: str) -> click.Command:
    """Return a command of `txn`; that of another package as the package has it."""
    return txn.commands[name] if txn.commands[name].callback else extension(name)


def _section(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, parent, **command.context_settings)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {name}\n\n"
    yield f"{_paragraphs(command.help or '')}\n\n"
    yield f"```text\n{name} {usage}\n```\n"
    rows = [
        (f"`{names}`".replace("|", "\\|"), _escaped(meaning))
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None
        for names, meaning in [record]
    ]
    yield "\n| option | meaning |\n| --- | --- |\n"
    yield from (f"| {names} | {meaning} |\n" for names, meaning in rows)


def _paragraphs(text: str) -> str:
    """Return the paragraphs of a help text, wrapped again: click indents and marks them."""
    paragraphs = (part.replace("\b", "") for part in text.split("\n\n"))
    return "\n\n".join(fill(" ".join(part.split()), 100) for part in paragraphs)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
