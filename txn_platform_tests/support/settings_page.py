"""The page `docs/settings.md`, made from the settings' classes.

Names, defaults, allowed values and meanings come from the fields of `txn_platform.settings` and
`generator_service.settings`. `python -m txn_platform_tests.support.settings_page` writes the page.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AliasChoices, SecretStr

from generator_service import settings as generator
from txn_platform import settings as platform
from txn_platform.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

PAGE: Final = Path(__file__).parents[2] / "docs" / "settings.md"
_BOUNDS: Final = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))
_KINDS: Final = {
    SecretStr: "a secret",
    bool: "`true` or `false`",
    datetime: "an hour that is over",
    int: "a whole number",
    float: "a number",
}

_PAGE: Final = """\
# Settings

<!-- made by python -m txn_platform_tests.support.settings_page -->

Settings come from the environment or from a `.env` (UTF-8) in the working directory; the
environment wins. White space around a value is stripped, except in names of files and folders. An
empty value counts as unset. All settings are checked before anything starts. A message names the
variable and the fix, never the value of a secret or the query of an address. `txn doctor` points
out variables that look misspelt.

## The platform

{platform}

## The source

The generator. The bounds are those of an [API of your own](own-api.md) as well.

{source}

## The store

{store}

`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in upper or lower case, name the proxy for the store and
the source. Loopback is never asked through it. `NO_COLOR` turns colours off.

## The generator

The settings of the [service](generator.md), of `txn generate` and of `txn scorecard`.

{generator}
"""


def page() -> str:
    """Return the page, Markdown."""
    fields = [
        (_names(field.validation_alias), field) for field in platform.Settings.model_fields.values()
    ]
    parts: dict[str, list[str]] = {"platform": [], "source": [], "store": []}
    for names, field in fields:
        parts[_part(names[0])].append(_row(names, field))
    return _PAGE.format(
        **{name: _table(rows) for name, rows in parts.items()},
        generator=_table(
            [
                _row([name], field)
                for name, field in zip(
                    generator.variables(), generator.Settings.model_fields.values(), strict=True
                )
            ]
        ),
    )


def _part(name: str) -> str:
    """Return the section of a variable of the platform."""
    if name.startswith(("TXN_SOURCE_", "GENERATOR_")):
        return "source"
    return "store" if name.startswith(("AWS_", "TXN_S3_")) else "platform"


def _names(alias: object) -> list[str]:
    return list(map(str, alias.choices)) if isinstance(alias, AliasChoices) else [str(alias)]


def _table(rows: list[str]) -> str:
    return "\n".join(
        ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows]
    )


def _row(names: list[str], field: FieldInfo) -> str:
    default = field.default
    if default is None or default == "":
        shown = ""
    elif isinstance(default, datetime):
        shown = f"`{Window(default).partition_key}`"
    else:
        shown = f"`{str(default).lower() if isinstance(default, bool) else default}`"
    assert field.description, names
    meaning = re.sub(r"\|", r"\\|", field.description)
    variables = ", ".join(f"`{name}`" for name in names)
    return f"| {variables} | {shown} | {', '.join(_allowed(field))} | {meaning} |"


def _allowed(field: FieldInfo) -> Iterator[str]:
    types = _types(field.annotation)
    for each in types:
        if get_origin(each) is Literal:
            yield " or ".join(f"`{value}`" for value in get_args(each))
    yield from (allowed for kind, allowed in _KINDS.items() if kind in types)
    for kind, name, sign in _BOUNDS:
        for bound in field.metadata:
            if isinstance(bound, kind):
                yield f"{sign} {getattr(bound, name):,}"


def _types(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    inner = get_args(annotation)
    return (annotation,) if get_origin(annotation) is Literal or not inner else inner


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
