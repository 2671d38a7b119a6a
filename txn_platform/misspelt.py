"""Variables that look like misspelt settings. `txn doctor` reports their names only."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from txn_platform.settings import env_file_variables, variables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# Unknown variables with these prefixes are mistakes.
_OURS: Final = ("TXN_", "GENERATOR_")
_SHARED: Final = ("AWS_", "DELTA_", "DAGSTER_")
# The least similarity to one of our names, by difflib's ratio.
_SIMILAR: Final = 0.6
_SHARED_SIMILAR: Final = 0.8
_FOREIGN_SIMILAR: Final = 0.88
# Variables that Kubernetes sets for a Service of that name.
_KUBERNETES: Final = re.compile(
    r"(TXN|GENERATOR)(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
# Variables of other software with similar names.
_OTHERS: Final = re.compile(r"AWS_ENDPOINT_URL_\w+|AWS_DEFAULT_PROFILE|AWS_SECURITY_TOKEN")


def misspelt(generator_variables: Collection[str] = ()) -> Iterator[str]:
    """A message for each variable of the environment or `.env` that is almost a setting.

    Args:
        generator_variables: the names that the generator service reads. Without them, its prefix
            counts as another's.

    Raises:
        UserError: `.env` can't be read.
    """
    known = [*variables(), *generator_variables]
    ours = _OURS if generator_variables else _OURS[:1]
    found_in = {name.upper(): ".env" for name in env_file_variables()}
    found_in |= {name.upper(): "the environment" for name in os.environ}
    for name in sorted(found_in):
        if name in known or _OTHERS.fullmatch(name) or _KUBERNETES.fullmatch(name):
            continue
        is_ours = name.startswith(ours)
        foreign = _SHARED_SIMILAR if name.startswith(_SHARED) else _FOREIGN_SIMILAR
        similar = get_close_matches(name, known, 1, _SIMILAR if is_ours else foreign)
        if not is_ours and not similar:
            continue
        remedy = f"write {similar[0]}" if similar else "remove it, or see docs/settings.md"
        shown = "".join(filter(str.isprintable, name))
        yield f"{shown} in {found_in[name]} is no setting: {remedy}"
