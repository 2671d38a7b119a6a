"""Addresses: which are allowed, and that no message shows the query of a wrong one."""

import pytest

from txn_platform.defs.resources import GeneratorResource
from txn_platform.errors import UserError
from txn_platform.http_addresses import http_address
from txn_platform.source.api import SourceApi
from txn_platform.source.client import Source
from txn_platform.source.pages import SinglePage
from txn_platform.windows import Window

SECRET = "key-in-query"


def test_addresses_that_are_allowed() -> None:
    for address in ("http://a_b:1", "https://a-b.c.:8000/base", "http://[::1]:8000", "http://a"):
        assert http_address(address) == address
    assert http_address("HTTP://host/") == "http://host"


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[", "http://a..b", "http://a b"])
def test_an_address_that_cannot_be_asked_is_said_without_the_query(url: str) -> None:
    api = SourceApi(f"/tx?key={SECRET}&from={{start}}", SinglePage())
    window = Window.of_partition("2026-11-01-00:00")
    with pytest.raises(UserError) as raised:
        list(Source(url, api).batches(window, window.end))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:99999?key={SECRET}", f"http://me:{SECRET}@h", f"h?key={SECRET}"]
)
def test_a_url_in_the_config_of_a_run_is_checked_as_that_of_the_environment(url: str) -> None:
    with pytest.raises(UserError, match=r"resources\.generator\.config\.url .*must") as raised:
        GeneratorResource(url=url).source()
    assert SECRET not in str(raised.value)
