"""Use of those parts of Dagster that it calls beta or preview.

Dagster warns at each use. The users of this package can do nothing about it.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def beta_allowed() -> Generator[None]:
    """Without these warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield
