"""Names, addresses and secrets in messages."""

from __future__ import annotations

from ast import literal_eval
from time import process_time

import pytest

from txn_platform.errors import UserError, shown
from txn_platform.redaction import redacted
from txn_platform_tests.support.card_spellings import SPELLINGS


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_name_shows_four_digits_of_a_number_at_most(spelling: str) -> None:
    told = literal_eval(shown(f"field {SPELLINGS[spelling]}"))
    assert sum(map(str.isnumeric, told)) <= 4


@pytest.mark.parametrize("name", ["amount", "iso3166_1", "card number 2"])
def test_a_usual_name_is_whole(name: str) -> None:
    assert shown(name) == repr(name)


@pytest.mark.parametrize(
    ("text", "told"),
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
        ("user:pa/Ss3@host:80 is wrong", "…@host:80 is wrong"),
        ("//user:Ss3@host/x", "//…@host/x"),
        (r"http:\\user:Ss3@host", "…@host"),
        ("http://user:pa'Ss3@host/x is wrong", "http://host/… is wrong"),
        ('http://user:pa"Ss3<>@host', "http://host"),
        ("http://user:pa Ss3@host", "http://… …@host"),
        ("Authorization: Bearer Ss3-Ss3", "Authorization: Bearer …"),
        ("host/path?token=Ss3&x=1", "host/path?token=…&x=1"),
        ("s3://bucket/key?X-Amz-Signature=Ss3", "s3://bucket/key?X-Amz-Signature=…"),
        ("4111\u200b1111\u20111111\u00ad1111 is a card", "… is a card"),
        # These stay.
        ("ask for a bearer token", "ask for a bearer token"),
        ("s3://bucket/lake/old_key=7bcb1fa1/x", "s3://bucket/lake/old_key=7bcb1fa1/x"),
        ("2026-11-01-00:00: s3://bucket/us@er", "2026-11-01-00:00: s3://bucket/us@er"),
        ("set TXN_ALLOW_WEAK_CARD_KEY=true", "set TXN_ALLOW_WEAK_CARD_KEY=true"),
    ],
)
def test_no_form_of_a_secret_is_in_a_message(text: str, told: str) -> None:
    assert str(UserError(text)) == told


@pytest.mark.parametrize(
    "part",
    [
        *("9", "9 ", "a", "token", "token=", "=", "-", "0-", "f", "abcdef01", "<html ", "…"),
        *("a:", "a.", "a@", "a:b@", "@", "a://", "a://'", "://… ", "/", "(/", "(/a?", "a://b/?"),
        *("bearer ", "bearer\t", "4111111111111111 ", "123456789012   "),
    ],
)
def test_a_long_text_is_redacted_in_time_that_grows_with_its_length(part: str) -> None:
    begun = process_time()
    redacted(part * (100_000 // len(part)))
    # A pattern that is tried again at each character needs minutes.
    assert process_time() - begun < 5
