"""Settings: the environment, `.env`, and what is said of values that are not allowed."""

from pathlib import Path

import pytest

from txn_platform.errors import UserError
from txn_platform.settings import load_settings


def test_nothing_set_means_the_defaults() -> None:
    settings = load_settings()
    assert settings.home == Path(".txn")
    assert settings.bucket is None
    assert settings.generator_url is None
    assert settings.max_quarantine == 0.05


def test_env_file_counts_and_the_environment_counts_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("AWS_BUCKET_NAME=of-file\nAWS_REGION=eu-west-1\n")
    monkeypatch.setenv("AWS_BUCKET_NAME", "of-environment")
    assert (load_settings().bucket, load_settings().region) == ("of-environment", "eu-west-1")


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", "")
    assert load_settings().bucket is None


def test_an_empty_variable_hides_that_of_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("AWS_BUCKET_NAME=of-file\nAWS_ENDPOINT_URL_S3=http://of-file\n")
    monkeypatch.setenv("AWS_BUCKET_NAME", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://of-environment")
    assert load_settings().bucket is None
    assert load_settings().endpoint_url == "http://of-environment"


def test_only_its_own_variables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("BUCKET", "not-ours")
    monkeypatch.setenv("REGION", "not-ours")
    settings = load_settings()
    assert (settings.home, settings.bucket, settings.region) == (Path(".txn"), None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TXN_MAX_QUARANTINE", "2"),
        ("TXN_MAX_QUARANTINE", "some"),
        ("GENERATOR_URL", "localhost:8000"),
        ("GENERATOR_URL", "http://me:very-secret@127.0.0.1:8000"),
        ("AWS_ENDPOINT_URL", "localhost:9000"),
        ("TXN_SOURCE_READ_SECONDS", "nan"),
        ("TXN_SOURCE_WHOLE_SECONDS", "inf"),
        ("TXN_SOURCE_ATTEMPTS", "2"),
        ("TXN_SOURCE_MAX_BYTES", "1000"),
        ("TXN_LAKE_PREFIX", "/lake/"),
        ("TXN_S3_ADDRESSING", "dns"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "never"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=name) as raised:
        load_settings()
    assert "very-secret" not in str(raised.value)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("TXN_CARD_KEY", "very-secret")
    assert "very-secret" not in repr(load_settings())
