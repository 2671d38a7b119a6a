"""Settings: the environment, `.env`, and what is said of values that are not allowed."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator_service.settings import Settings as GeneratorSettings
from generator_service.settings import SettingsError
from txn_platform.errors import UserError
from txn_platform.settings import load_first_hour, load_settings


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


KEY_IN_QUERY = "key-in-query"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("AWS_ENDPOINT_URL", "http://my_minio:9000", "network alias"),
        ("AWS_ENDPOINT_URL_S3", "http://my_minio:9000", "network alias"),
        ("AWS_ENDPOINT_URL", "http://minio:99999", "from 1 to 65535"),
        ("GENERATOR_URL", f"http://127.0.0.1:99999/tx?key={KEY_IN_QUERY}", "before its"),
        ("GENERATOR_URL", "http://127.0.0.1:99999", "from 1 to 65535"),
        ("GENERATOR_URL", "http://127.0.0.1:0", "from 1 to 65535"),
        ("GENERATOR_URL", "http://127.0.0.1:", "from 1 to 65535"),
        ("GENERATOR_URL", "http://", "must name a host"),
        ("GENERATOR_URL", "http://::1:8000", "must name a host"),
        ("GENERATOR_URL", "http://[::1", "must name a host"),
        ("GENERATOR_URL", "http://[a]:1", "must name a host"),
        ("GENERATOR_URL", "http://a..b", "letters, digits"),
        ("GENERATOR_URL", f"http://{'a' * 64}", "letters, digits"),
        ("GENERATOR_URL", "http://a b", "white space"),
        ("GENERATOR_URL", "http://bücher.example", "xn--"),
        ("GENERATOR_URL", "http://a\nb", "control characters"),
        ("AWS_BUCKET_NAME", "s3://bucket/lake", "TXN_LAKE_PREFIX"),
        ("AWS_REGION", "us east 1", "such as us-east-1"),
        ("AWS_DEFAULT_REGION", "us east 1", "such as us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AK IA", "white space"),
        ("AWS_SESSION_TOKEN", "tökén", "ASCII"),
        ("TXN_CARD_KEY", "sixteen bytes\nand more", "control characters"),
        ("TXN_CARD_KEY", "sixteen bytes \udcff and more", "UTF-8"),
        ("TXN_MAX_QUARANTINE", "nan", "less than or equal to 1"),
        ("TXN_MAX_QUARANTINE", "-0.1", "greater than or equal to 0"),
        ("TXN_MAX_QUARANTINE", "\N{ARABIC-INDIC DIGIT ZERO}.5", "number"),
        ("TXN_SOURCE_ATTEMPTS", "1e3", "integer"),
        ("TXN_SOURCE_ATTEMPTS", "9" * 30, "less than or equal to 1000"),
        ("TXN_SOURCE_MAX_BYTES", "9" * 30, "less than or equal to"),
        ("TXN_HOME", "/dev/null/below", "must be a directory"),
        ("TXN_HOME", "a" * 300, "that this machine can have"),
        ("DAGSTER_HOME", "relative", "absolute"),
        ("DAGSTER_HOME", "/dev/null", "must be a directory"),
        ("TXN_FIRST_HOUR", "2026-02-01", "written as 2026-01-01-00:00"),
        ("TXN_FIRST_HOUR", "2026-01-01-00:30", "written as 2026-01-01-00:00"),
        ("TXN_FIRST_HOUR", "2999-01-01-00:00", "an hour that is over"),
        ("TXN_FIRST_HOUR", "1969-12-31-23:00", "written as 2026-01-01-00:00"),
        ("TXN_LAKE_DIRECTORY", "/dev/null", "must be a directory"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf" {name}: .*{remedy}") as raised:
        load_settings()
    assert value not in str(raised.value)
    assert KEY_IN_QUERY not in str(raised.value)


@pytest.mark.parametrize("place", ["environment", ".env"])
@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("TXN_SOURCE_TRANSACTIONS", "transactions"),
        ("TXN_SOURCE_ITEMS", "items"),
        ("TXN_SOURCE_NEXT", 'NextLink("next")'),
        ("TXN_SOURCE_NEXT_ABSENT", 'end="absent"'),
    ],
)
def test_a_setting_of_earlier_versions_is_refused_with_what_replaces_it(
    name: str, attribute: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "environment":
        monkeypatch.setenv(name, f"/tx?key={KEY_IN_QUERY}")
    else:
        Path(".env").write_text(f"{name}=/tx?key={KEY_IN_QUERY}\n")
    with pytest.raises(UserError, match=rf"^{name} is no setting any more: ") as raised:
        load_settings()
    assert attribute in str(raised.value)
    assert KEY_IN_QUERY not in str(raised.value)
    monkeypatch.setenv(name, "")
    load_settings()


@pytest.mark.parametrize("around", [" ", "\n", "\r\n", "\t", "\xa0", "\u200b", " \ufeff\n"])
def test_white_space_around_a_value_does_not_count(
    monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    names = {
        "TXN_CARD_KEY": "card_key",
        "AWS_SECRET_ACCESS_KEY": "secret_access_key",
        "AWS_SESSION_TOKEN": "session_token",
        "AWS_ACCESS_KEY_ID": "access_key_id",
        "AWS_BUCKET_NAME": "bucket",
        "TXN_MAX_QUARANTINE": "max_quarantine",
        "TXN_CARD_POLICY": "card_policy",
    }
    values = dict.fromkeys(names, "sixteen-bytes-and-more")
    values |= {"TXN_MAX_QUARANTINE": "0.25", "TXN_CARD_POLICY": "clear"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    bare = load_settings()
    for name, value in values.items():
        monkeypatch.setenv(name, f"{around}{value}{around}")
    assert load_settings() == bare
    for name in names:
        monkeypatch.setenv(name, around)
    assert load_settings().card_key is None
    assert load_settings().max_quarantine == 0.05


def test_white_space_in_the_env_file_does_not_count() -> None:
    Path(".env").write_text('TXN_CARD_KEY=" sixteen bytes and more "\n', "utf-8-sig")
    key = load_settings().card_key
    assert key is not None
    assert key.get_secret_value() == "sixteen bytes and more"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_an_env_file_that_is_not_utf_8_is_named(encoding: str) -> None:
    Path(".env").write_text("TXN_HOME=elsewhere\n", encoding)
    with pytest.raises(UserError, match=r"\.env cannot be read .*UTF-8"):
        load_settings()
    with pytest.raises(SettingsError, match=r"\.env cannot be read .*UTF-8"):
        GeneratorSettings.load()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("not a setting=1\n", 1),
        ("# Keys\n\nTXN_CARD_KEY: sixteen bytes and more\n", 3),
        ("TXN_HOME=here\nTXN_CARD_KEY='sixteen bytes and more\nTXN_LAKE_PREFIX=there\n", 2),
        ('TXN_HOME=here\n\n\n  TXN_CARD_KEY="sixteen bytes and more', 4),
        ("TXN_HOME=here\r\n=sixteen bytes and more\r\n", 2),
    ],
)
def test_a_line_of_the_env_file_that_cannot_be_read_is_named(text: str, line: int) -> None:
    Path(".env").write_text(text, newline="")
    said = rf"\.env cannot be read from line {line} on: write NAME=value there"
    with pytest.raises(UserError, match=said) as raised:
        load_settings()
    assert "sixteen" not in str(raised.value)
    with pytest.raises(SettingsError, match=said):
        GeneratorSettings.load()


def test_the_first_hour_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().first_hour == datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setenv("TXN_FIRST_HOUR", " 2025-06-01-07:00\n")
    # A value that does not bear on it is not looked at.
    monkeypatch.setenv("TXN_MAX_QUARANTINE", "nonsense")
    assert load_first_hour() == datetime(2025, 6, 1, 7, tzinfo=UTC)


def test_a_directory_is_a_lake_and_two_lakes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("AWS_BUCKET_NAME=of-file\n")
    monkeypatch.setenv("TXN_LAKE_DIRECTORY", "my lake")
    # One of the environment counts more than any of the file.
    assert load_settings().bucket is None
    assert load_settings().directory == tmp_path / "my lake"
    monkeypatch.setenv("AWS_BUCKET_NAME", "of-environment")
    with pytest.raises(UserError, match="TXN_LAKE_DIRECTORY: must be unset while AWS_BUCKET_NAME"):
        load_settings()
    assert load_settings(bucket="of-a-resource").bucket == "of-a-resource"
    monkeypatch.delenv("AWS_BUCKET_NAME")
    monkeypatch.delenv("TXN_LAKE_DIRECTORY")
    assert load_settings().bucket == "of-file"


def test_lines_without_a_value_and_comments_are_read() -> None:
    Path(".env").write_text("\n# A comment\nexport TXN_LAKE_PREFIX=there # why\nOTHER\n\n")
    assert load_settings().lake_prefix == "there"
    GeneratorSettings.load()
