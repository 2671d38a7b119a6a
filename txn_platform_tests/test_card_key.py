"""Card keys: which are refused, where they may come from, and how a kept one is replaced."""

from __future__ import annotations

import base64
import os
import re
import secrets
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from click.testing import CliRunner
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import make_server

from txn_platform.card_key import (
    begin_kept_rotation,
    card_key,
    checked_card_key,
    end_kept_rotation,
    find_card_key,
    previous_card_key,
    weakness,
)
from txn_platform.cli import main
from txn_platform.errors import UserError
from txn_platform.local.seaweedfs import REGION
from txn_platform.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STRONG = "fd8a1c5b7e2a94d03f6c8e1b25a7d94063b1e8f7"
WEAK = {
    "one character": "0" * 64,
    "two characters": "ab" * 40,
    "a repeated sequence": "0123456789abcdef" * 4,
    "a sequence": "abcdefghijklmnopqrstuvwxyz0123456789",
    "a repeated word": "hunter2!" * 8,
    "pairs of digits": "00112233445566778899aabbccddeeff",
    "bytes at equal distances": "a1b2c3d4e5f60718293a4b5c6d7e8fa0",
    "a sequence of bytes in base64": base64.b64encode(bytes(range(32))).decode(),
    "two sequences in turns": "aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpP",
    "digits": "83428940509568420347",
    "64 bits": secrets.token_hex(8),
    "64 bits with colons": ":".join(secrets.token_hex(1) for _ in range(8)),
    "120 bits": secrets.token_hex(15),
    "a UUID": str(uuid.uuid4()),
}


@pytest.mark.parametrize("key", WEAK.values(), ids=WEAK)
def test_a_weak_key_is_refused_unless_it_is_allowed(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_CARD_KEY", key)
    with pytest.raises(UserError, match=r"^TXN_CARD_KEY: .*`txn rotate-card-key`") as refused:
        card_key(load_settings())
    assert key not in str(refused.value)
    monkeypatch.setenv("TXN_ALLOW_WEAK_CARD_KEY", "true")
    assert card_key(load_settings()) == key.encode()


def test_a_key_of_too_few_bytes_is_never_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXN_ALLOW_WEAK_CARD_KEY", "true")
    monkeypatch.setenv("TXN_CARD_KEY", "f3a1c5b7e2a94d0")
    with pytest.raises(UserError, match=r"at least 16 bytes.*rotate-card-key"):
        card_key(load_settings())


@pytest.mark.parametrize(
    "make",
    [
        lambda: secrets.token_hex(16),
        lambda: secrets.token_hex(32).upper(),
        lambda: secrets.token_urlsafe(16),
        lambda: base64.b64encode(secrets.token_bytes(16)).decode(),
        lambda: base64.b32encode(secrets.token_bytes(16)).decode().lower().rstrip("="),
    ],
)
def test_random_keys_of_128_bits_are_strong(make: Callable[[], str]) -> None:
    assert [weakness(make()) for _ in range(300)] == [""] * 300


def test_doctor_warns_of_a_weak_key_that_is_allowed_and_no_key_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = WEAK["a repeated word"]
    monkeypatch.setenv("TXN_CARD_KEY", key)
    monkeypatch.setenv("TXN_ALLOW_WEAK_CARD_KEY", "true")
    found = find_card_key(load_settings())
    told = CliRunner().invoke(main, ["doctor"]).output
    assert re.search(
        rf"ok +card key +TXN_CARD_KEY, with the id {found.fingerprint}$", told, re.MULTILINE
    )
    assert re.search("note +card key .*follows a pattern.*`txn rotate-card-key`", told)
    assert len(found.fingerprint) == 8
    assert key not in repr(found) + str(found) + repr(load_settings()) + told


@pytest.mark.parametrize(("mode", "others"), [(0o640, "its group"), (0o604, "others")])
@pytest.mark.parametrize("kept", [True, False])
def test_a_key_file_that_others_may_read_is_refused(
    mode: int, others: str, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    path = Path(".txn/card-key" if kept else "a key").absolute()
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"\n {STRONG}\r\n")
    if not kept:
        monkeypatch.setenv("TXN_CARD_KEY", path.as_uri())
    path.chmod(0o600)
    assert card_key(load_settings()) == STRONG.encode()
    path.chmod(mode)
    with pytest.raises(UserError, match=f"in a file that {others} may use.*rotate-card-key"):
        card_key(load_settings())
    monkeypatch.setenv("TXN_ALLOW_WEAK_CARD_KEY", "true")
    assert checked_card_key(load_settings()).weakness.startswith("lies in a file")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("file:///not/there", r"/not/there can't be made or read \(No such file"),
        ("file://relative/key", "a reference that is not known"),
        ("file:///", "a reference that is not known"),
        ("file:///etc", "can't be made or read"),
        ("file:///key%0A", "a reference that is not known"),
        ("file:///key?version=2", "a reference that is not known"),
        ("vault://secret/card-key", "a reference that is not known"),
        ("AWS-SSM://card-key-of-the-platform", "a reference that is not known"),
        ("aws_sm://card-key-of-the-platform-2", "a reference that is not known"),
        ("aws-sm:card-key-of-the-platform-2", "a reference that is not known"),
        ("arn:aws:secretsmanager:eu-west-1:1:secret:key-Ab1", "a reference that is not known"),
        ("file:/run/secrets/card-key-of-the-Platform", "a reference that is not known"),
        ("'file:///run/secrets/card-key-of-the-Platform'", "a reference that is not known"),
        (__file__, "a reference that is not known"),
    ],
)
def test_a_reference_that_leads_to_no_key_is_refused(
    reference: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("TXN_CARD_KEY", "TXN_CARD_KEY_PREVIOUS"):
        monkeypatch.setenv(variable, reference)
        with pytest.raises(UserError, match=reason):
            (card_key if variable == "TXN_CARD_KEY" else previous_card_key)(load_settings())
        monkeypatch.delenv(variable)


def test_a_file_that_refers_to_another_has_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text("file:///run/secrets/card-key-of-the-Platform\n")
    path.chmod(0o600)
    monkeypatch.setenv("TXN_CARD_KEY", path.as_uri())
    with pytest.raises(UserError, match="a reference that is not known"):
        card_key(load_settings())


@pytest.fixture
def secrets_manager() -> Iterator[str]:
    """The address of a served Secrets Manager."""
    server = make_server("127.0.0.1", 0, create_backend_app("secretsmanager"), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_secret_of_aws_can_be_the_key(
    secrets_manager: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"card-key-{uuid.uuid4().hex}"
    secret: Any = boto3.client(
        "secretsmanager",
        endpoint_url=secrets_manager,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name=REGION,
    )
    arn = secret.create_secret(Name=name, SecretString=f" {STRONG}\n")["ARN"]
    secret.create_secret(Name=f"{name}-binary", SecretBinary=b"\xff" * 32)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", secrets_manager)
    monkeypatch.setenv("AWS_REGION", REGION)
    # The settings' own credentials count, also those of `.env`.
    Path(".env").write_text("AWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=secret\n")
    for named in (name, arn):
        monkeypatch.setenv("TXN_CARD_KEY", f"aws-sm://{named}")
        assert card_key(load_settings()) == STRONG.encode()
    for named, reason in (
        (f"{name}-absent", r"refused it \(ResourceNotFoundException\)"),
        (f"{name}-binary", "it is binary"),
    ):
        monkeypatch.setenv("TXN_CARD_KEY", f"aws-sm://{named}")
        with pytest.raises(UserError, match=f"TXN_CARD_KEY: the secret {named} .*{reason}"):
            card_key(load_settings())
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="can't be asked"):
        card_key(load_settings())


class _KilledError(Exception):
    pass


def test_a_kept_key_is_replaced_once_wherever_the_replacement_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ".txn"
    old = card_key(load_settings())
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls -= 1
            if calls == 0:
                raise _KilledError
            return call(*args, **options)

        return counting

    for name in ("link", "fsync"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    stopped = 0
    for calls_before_the_end in range(1, 20):
        calls = calls_before_the_end
        try:
            begin_kept_rotation(home)
        except _KilledError:
            stopped += 1
        else:
            break
    # It was stopped at every step, and ended with two keys.
    assert stopped >= 5
    calls = 0
    previous = previous_card_key(load_settings())
    assert previous is not None
    assert previous.secret == old
    new = card_key(load_settings())
    assert new != old
    begin_kept_rotation(home)
    assert card_key(load_settings()) == new
    retired = end_kept_rotation(home, previous)
    assert retired == home / f"card-key.{previous.fingerprint}"
    assert end_kept_rotation(home, previous) is None
    assert previous_card_key(load_settings()) is None
    assert retired.read_text().encode() == old
    assert {path.name for path in home.iterdir()} == {"audit.log", "card-key", retired.name}
    for path in home.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_weak_kept_key_can_be_replaced_though_it_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ".txn"
    home.mkdir()
    for weak, mode in (("0123456789abcdef" * 2, 0o600), (STRONG, 0o644)):
        (home / "card-key").write_text(weak)
        (home / "card-key").chmod(mode)
        with pytest.raises(UserError, match="rotate-card-key"):
            card_key(load_settings())
        done = CliRunner().invoke(main, ["rotate-card-key", "--yes"])
        assert done.exit_code == 0, done.output
        assert weak not in done.output
        assert card_key(load_settings()) != weak.encode()
    for path in home.glob("card-key*"):
        assert path.stat().st_mode & 0o077 == 0
