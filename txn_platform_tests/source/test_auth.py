"""Authentication of requests: what is sent, where to, and that no secret is shown."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from txn_platform.errors import UserError
from txn_platform.source.api import SourceApi
from txn_platform.source.auth import Secret, basic, bearer, header
from txn_platform.source.client import Source
from txn_platform.source.pages import Cursor, NextLink, SinglePage
from txn_platform.source.transport import Limits, source_backoff
from txn_platform.windows import Window
from txn_platform_tests.support.served_api import ServedApi, served_api
from txn_platform_tests.support.served_source import sent_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from txn_platform.source.auth import Auth
    from txn_platform.source.requests import Request

_WINDOW = Window.of_partition("2026-11-01-00:00")
_LIMITS = Limits(read_seconds=5, whole_seconds=20, backoff=source_backoff(3, first_pause=0.001))
_VALUE = "sk_live_Planted51HqLy"
_PAGE = {"data": [sent_row(1)]}


@pytest.fixture
def there() -> Iterator[ServedApi]:
    with served_api(lambda _: _PAGE) as api:
        yield api


def _source(there: ServedApi, auth: Auth | None, **others: Any) -> Source:
    api = SourceApi("/tx?from={start}", **{"pages": SinglePage(), "auth": auth} | others)
    return Source(there.url, api, _LIMITS)


def _rows(source: Source) -> int:
    return sum(batch.num_rows for batch in source.batches(_WINDOW, _WINDOW.end))


def _encoded(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("auth", "name", "sent"),
    [
        (bearer(Secret("PLANTED")), "Authorization", f"Bearer {_VALUE}"),
        (header("X-Api-Key", Secret("PLANTED")), "X-Api-Key", _VALUE),
        (basic(Secret("PLANTED")), "Authorization", _encoded(f"{_VALUE}:")),
        (basic(Secret("NAME"), Secret("PLANTED")), "Authorization", _encoded(f"zoë:{_VALUE}")),
        (lambda _: {"X-Key": Secret("PLANTED").value()}, "X-Key", _VALUE),
    ],
    ids=["bearer", "header", "basic with a key alone", "basic", "function"],
)
def test_every_request_is_authenticated(
    auth: Auth, name: str, sent: str, there: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAME", "zoë")
    monkeypatch.setenv("PLANTED", f" \t{_VALUE}\r\n")
    there.answer = lambda asked: _PAGE if "p=2" in asked.target else {"data": [], "next": "?p=2"}
    pages = NextLink(end="absent")
    assert _rows(_source(there, auth, pages=pages)) == 1
    assert [asked.headers[name] for asked in there.asked] == [sent, sent]


def test_a_secret_may_be_in_the_file_of_settings(
    there: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text(f"PLANTED='{_VALUE} '\n")
    assert _rows(_source(there, bearer(Secret("PLANTED")))) == 1
    assert there.asked[0].headers["Authorization"] == f"Bearer {_VALUE}"
    # An empty variable hides that of the file, as for settings.
    monkeypatch.setenv("PLANTED", "")
    with pytest.raises(UserError, match="PLANTED is not set"):
        _rows(_source(there, bearer(Secret("PLANTED"))))


def test_a_function_signs_what_is_sent(there: ServedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", _VALUE)

    def signed(request: Request) -> Mapping[str, str]:
        text = f"{request.method}\n{request.address}\n".encode() + (request.body or b"")
        key = Secret("PLANTED").value().encode()
        return {"X-Signature": hmac.digest(key, text, "sha256").hex()}

    last = {"data": [sent_row(2)], "c": None}
    there.answer = lambda asked: last if b"cursor" in asked.body else _PAGE | {"c": "b"}
    _rows(_source(there, signed, body={"from": "{start}"}, pages=Cursor("c", place="body")))
    assert [asked.body for asked in there.asked] == [
        b'{"from":"2026-11-01T00:00:00Z"}',
        b'{"from":"2026-11-01T00:00:00Z","cursor":"b"}',
    ]
    for asked in there.asked:
        text = f"POST\n{there.url}{asked.target}\n".encode() + asked.body
        assert asked.headers["Content-Type"] == "application/json"
        assert (
            asked.headers["X-Signature"]
            == hmac.new(_VALUE.encode(), text, hashlib.sha256).hexdigest()
        )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "PLANTED is not set: "),
        ("", "PLANTED is not set: "),
        (f"{_VALUE}\nX-Evil: 1", "PLANTED must be text in UTF-8 on one line"),
        (f"{_VALUE} {_VALUE}", "PLANTED has a value that a header cannot carry"),
        (f"ключ{_VALUE}", "PLANTED has a value that a header cannot carry"),
    ],
)
def test_a_secret_that_cannot_be_sent_is_one_message_without_it(
    value: str | None, message: str, there: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("PLANTED", value)
    with pytest.raises(UserError, match=f"^{message}") as raised:
        _rows(_source(there, bearer(Secret("PLANTED"))))
    assert _VALUE not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert there.asked == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_the_secret_and_shows_no_value(
    status: int, there: ServedApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLANTED", _VALUE)
    monkeypatch.setenv("NAME", f"{_VALUE}2")
    caplog.set_level(logging.DEBUG)
    there.status = status
    there.answer = lambda asked: {"detail": f"{asked.headers.get('Authorization')} is wrong"}

    def signed(_: Request) -> Mapping[str, str]:
        return {"Authorization": Secret("PLANTED").value()}

    for auth, named in (
        (bearer(Secret("PLANTED")), "it does not let PLANTED read this"),
        (basic(Secret("NAME"), Secret("PLANTED")), "it does not let NAME and PLANTED read this"),
        (signed, "look at signed, the auth of its SourceApi"),
        (None, "give its SourceApi an auth"),
    ):
        source = _source(there, auth)
        with pytest.raises(UserError, match=named) as raised:
            _rows(source)
        said = f"{raised.value!r} {source!r} {source._api!r} {auth!r} {caplog.text}"
        for hidden in (_VALUE, base64.b64encode(_VALUE.encode()).decode()[:20]):
            assert hidden not in said


def test_a_name_that_is_the_secret_itself_is_refused_without_it() -> None:
    for wrong in (_VALUE, "two words", "", "a"):
        with pytest.raises(UserError, match="a Secret is given something else") as raised:
            Secret(wrong)
        assert _VALUE not in str(raised.value)
    value: Any = _VALUE
    for made in (lambda: bearer(value), lambda: header("X", value), lambda: basic(value)):
        with pytest.raises(UserError, match=r"take Secret\(...\) alone") as raised:
            made()
        assert _VALUE not in str(raised.value)
    with pytest.raises(UserError, match="a name that no header can have"):
        header("X-Key: 1", Secret("PLANTED"))


def _fails(_: Request) -> Mapping[str, str]:
    raise RuntimeError(_VALUE)


def _exits(_: Request) -> Mapping[str, str]:
    sys.exit(_VALUE)


def _explains(_: Request) -> Mapping[str, str]:
    raise UserError(_VALUE)


def _gives_a_newline(_: Request) -> Mapping[str, str]:
    return {"X-Key": f"{_VALUE}\r\nX-Evil: 1"}


def _gives_a_number(_: Request) -> Any:
    return {"X-Key": 7}


def _gives_nothing(_: Request) -> Any:
    return None


def _is_not_reached(_: Request) -> Mapping[str, str]:
    raise ConnectionError(_VALUE)


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        (_fails, r"_fails, the auth of the source, fails with RuntimeError in line \d+ of test_au"),
        (_exits, r"_exits, the auth of the source, fails with SystemExit in line \d+ of test_auth"),
        (_explains, r"_explains, the auth of the source, fails with UserError in line \d+ of"),
        (_gives_a_newline, "_gives_a_newline, the auth of the source, gives what is no header"),
        (_gives_a_number, "gives what is no header"),
        (_gives_nothing, "fails with TypeError"),
        (_is_not_reached, r"in 3 attempts.*authenticated \(ConnectionError\): look at _is_not_re"),
    ],
)
def test_a_function_that_fails_is_one_message(auth: Auth, message: str, there: ServedApi) -> None:
    with pytest.raises(UserError, match=message) as raised:
        _rows(_source(there, auth))
    assert _VALUE not in str(raised.value)
    assert there.asked == []


@pytest.mark.parametrize("kind", ["redirect", "field", "Link", "user"])
def test_nothing_is_sent_to_another_origin(
    kind: str, there: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", _VALUE)
    pages = NextLink(header="Link") if kind == "Link" else NextLink()
    with served_api(lambda _: _PAGE) as elsewhere:
        following = f"{elsewhere.url}/tx"
        if kind == "user":
            following = following.replace("://", f"://{there.url.removeprefix('http://')}@")
        there.answer = lambda _: {"data": [], "next": following}
        if kind == "Link":
            there.sent_headers = {"Link": f'<{following}>; rel="next"'}
        if kind == "redirect":
            there.status, there.sent_headers = 307, {"Location": following}
        with pytest.raises(UserError, match=r"of another origin is not followed|a redirect"):
            _rows(_source(there, bearer(Secret("PLANTED")), pages=pages))
        assert there.asked
        assert elsewhere.asked == []


def test_a_secret_in_a_body_is_sent_and_not_shown(
    there: ServedApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLANTED", _VALUE)
    caplog.set_level(logging.DEBUG)
    source = _source(there, None, body={"access_token": Secret("PLANTED"), "n": [{"x": "{end}"}]})
    assert _rows(source) == 1
    (asked,) = there.asked
    assert asked.body == (
        f'{{"access_token":"{_VALUE}","n":[{{"x":"2026-11-01T01:00:00Z"}}]}}'.encode()
    )
    there.status = 400
    with pytest.raises(UserError) as raised:
        _rows(source)
    assert not re.search(_VALUE, f"{raised.value} {source._api!r} {caplog.text}")
