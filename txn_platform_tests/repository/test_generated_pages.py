"""The pages that `make docs` writes are those that the code would write now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from txn_platform_tests.support import cli_page, settings_page

if TYPE_CHECKING:
    from types import ModuleType


@pytest.mark.parametrize("module", [cli_page, settings_page], ids=lambda module: module.PAGE.name)
def test_a_generated_page_is_current(module: ModuleType) -> None:
    assert module.PAGE.read_text("utf-8") == module.page(), "run `make docs`"
