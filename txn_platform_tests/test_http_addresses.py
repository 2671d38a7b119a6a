"""Addresses: which are allowed, and that no message shows their queries and passwords."""

import pytest

from txn_platform.defs.resources import GeneratorResource
from txn_platform.errors import UserError
from txn_platform.http_addresses import http_address
from txn_platform.source.client import Source, SourceApi
from txn_platform.windows import Window

SECRET = "key-in-query"


def test_addresses_that_are_allowed() -> None:
    for address in ("http://a_b:1", "https://a-b.c.:8000/base", "http://[::1]:8000", "http://a"):
        assert http_address(address) == address
    assert http_address("HTTP://host/") == "http://host"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("at http://u:pass@h:1/tx?key=S#f: fix it", "at http://h:1/…: fix it"),
        (
            "(http://[::1]:8000), [http://h]; https://h.",
            "(http://[::1]:8000), [http://h]; https://h.",
        ),
        ("at http://u:pa/S@h:1/x, or http://u:1/S@h", "at http://…, or http://…"),
        ("HTTPS://h/services/S/S", "https://h/…"),
        ("slack://S/S/S failed", "slack://… failed"),
        ('403: <?xml version="1.0"?><Error><AWSAccessKeyId>S</..>: fix it', "403: …: fix it"),
        ("card 4539 5787-6362.1486, 4539578763621486", "card …, …"),
        ("s3://K:S/S@bucket/a, s3://S@bucket/a", "s3://…, s3://…"),
        ("url: /tx?key=S&a=1 (Caused by", "url: /tx (Caused by"),
        ("postgresql://u:S@db/x failed", "postgresql://… failed"),
        ("'http://h/tx?S' is wrong? No.", "'http://h/…' is wrong? No."),
        ("s3://bucket/a?b=c/key", "s3://bucket/a?b=c/key"),
    ],
)
def test_a_message_for_users_shows_of_an_address_what_has_no_secret(said: str, shown: str) -> None:
    assert str(UserError(said)) == shown


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[", "http://a..b", "http://a b"])
def test_an_address_that_cannot_be_asked_is_said_without_the_query(url: str) -> None:
    api = SourceApi(transactions=f"/tx?key={SECRET}&from={{start}}", totals=None, watermark=None)
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
