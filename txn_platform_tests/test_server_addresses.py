"""Which addresses of databases and brokers are accepted, and what the messages show of others."""

from collections.abc import Callable

import pytest

from txn_platform.errors import UserError
from txn_platform.server_addresses import password_of, require_broker, require_database
from txn_platform.settings import load_settings

_SECRET = "5ecret-word"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:secret@127.0.0.1:5432/name",
        "postgresql+psycopg2://user@db.example.com/name?sslmode=require",
        "postgresql://user:a%2Fb%40c@[::1]/name",
    ],
)
def test_addresses_of_databases(address: str) -> None:
    require_database(address)


@pytest.mark.parametrize(
    "address", ["redis://127.0.0.1", "redis://:secret@cache:6379/0", "rediss://u:p@cache:6380/12"]
)
def test_addresses_of_brokers(address: str) -> None:
    require_broker(address)


_NO_DATABASES = (
    f"mysql://user:{_SECRET}@host/name",
    f"postgresql://user:{_SECRET}@host",
    f"postgresql://user:{_SECRET}@host/",
    f"postgresql://user:{_SECRET}@/name",
    f"postgresql://user:{_SECRET}@host:0/name",
    f"postgresql://user:{_SECRET}@host:70000/name",
    f"postgresql://user:{_SECRET}/x@host/name",
    "postgresql://host/name",
    f"user:{_SECRET}@host/name",
)
_NO_BROKERS = (
    f"amqp://user:{_SECRET}@host//",
    f"redis://:{_SECRET}@",
    f"redis://:{_SECRET}@host:port/0",
    f"redis://:{_SECRET}@host/name",
    f"redis://:{_SECRET}/x@host/0",
    f":{_SECRET}@host:6379",
)


@pytest.mark.parametrize(
    ("check", "address"),
    [(require_database, each) for each in _NO_DATABASES]
    + [(require_broker, each) for each in _NO_BROKERS],
)
def test_other_addresses_are_refused_without_being_shown(
    check: Callable[[str], None], address: str
) -> None:
    with pytest.raises(ValueError, match="must be written") as refused:
        check(address)
    assert _SECRET not in str(refused.value)


def test_a_setting_that_is_no_address_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", _NO_DATABASES[0])
    monkeypatch.setenv("TXN_BROKER_URL", _NO_BROKERS[0])
    with pytest.raises(UserError) as refused:
        load_settings()
    assert "DAGSTER_POSTGRES_URL: must" in str(refused.value)
    assert "TXN_BROKER_URL: must" in str(refused.value)
    assert _SECRET not in str(refused.value)


def test_the_password_of_an_address_is_a_secret_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXN_BROKER_URL", f"redis://:{_SECRET}%2F@host/0")
    assert f"{_SECRET}/" in load_settings().secrets()
    assert password_of("redis://[") == ""
