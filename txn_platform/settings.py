"""The settings of the platform, from the environment and `.env`.

Every environment variable that the platform reads is a field here. `lake.opening`, `source.client`
and `defs.resources` build objects from them.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast, override

from dotenv.parser import parse_stream
from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from txn_platform.addresses import (
    require_delta_place,
    require_directory,
    require_folder,
)
from txn_platform.errors import UserError
from txn_platform.http_addresses import http_address, s3_endpoint
from txn_platform.running_stack import cluster_uses, running_stack
from txn_platform.server_addresses import password_of, require_broker, require_database
from txn_platform.windows import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic.fields import FieldInfo

ENV_FILE: Final = ".env"
# Some editors write a byte order mark before the first name.
_ENCODING: Final = "utf-8-sig"

_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[^\s/]+[/:][A-Za-z0-9._/:-]+")
_REGION: Final = re.compile(r"(?![0-9]+$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
# Shorter ones are parts of words.
_SHORTEST_SECRET: Final = 8
_WEBHOOK: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
# Characters without width, which are copied with values from web pages.
_INVISIBLE: Final = "\ufeff\u200b\u2060"
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ON_ONE_LINE: Final = "must be text in UTF-8 on one line, without control characters"
# A directory's name may begin or end with a space.
_LITERAL: Final = frozenset(
    {"txn_home", "txn_lake_directory", "txn_lake_prefix", "delta_lake_s3_path", "dagster_home"}
)
# Settings of a running local stack that give way to those of the environment.
_UNLESS_SET: Final = frozenset({"generator_url", "first_hour", "dagster_home", "webserver_url"})
# Settings of earlier versions, and the attributes of a SourceApi that replace them.
_REMOVED: Final = {
    "TXN_SOURCE_TRANSACTIONS": "transactions",
    "TXN_SOURCE_ITEMS": "items",
    "TXN_SOURCE_NEXT": 'pages, as in NextLink("next")',
    "TXN_SOURCE_NEXT_ABSENT": 'pages, as in NextLink("next", end="absent")',
}

_KEYS: Final = frozenset({"aws_access_key_id", "aws_secret_access_key"})
_TOKEN: Final = "aws_session_token"  # noqa: S105
# Variables that name the same setting.
_TOGETHER: Final = (
    _KEYS,
    frozenset({"aws_endpoint_url", "aws_endpoint_url_s3"}),
    frozenset({"aws_region", "aws_default_region"}),
    frozenset({"aws_bucket_name", "txn_lake_directory"}),
)


class LakeSettings(BaseSettings):
    """The settings that say which lake is used, and when its partitions begin.

    An empty variable counts as unset, and hides that of `.env`. White space around a value does not
    count, except in the names of places.
    """

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding=_ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    home: Path = Field(
        default=Path(".txn"),
        validation_alias="TXN_HOME",
        description="The local state: directory lake, staging, keys, logs. Only its owner may enter"
        " it (0700). `~` at its beginning is the home directory.",
    )
    bucket: str | None = Field(
        default=None,
        validation_alias="AWS_BUCKET_NAME",
        description="The bucket of the lake. Without it the lake is a directory.",
    )
    lake_directory: Path | None = Field(
        default=None,
        validation_alias="TXN_LAKE_DIRECTORY",
        description="The directory of a lake without a bucket. If neither is set, the lake is that"
        " of the local stack while it runs, and otherwise TXN_HOME/lake.",
    )
    first_hour: datetime = Field(
        default=datetime(2026, 1, 1, tzinfo=UTC),
        validation_alias="TXN_FIRST_HOUR",
        description="The first partition, as 2026-01-01-00:00 (UTC). A new local stack begins 30"
        " days back. An hour after the oldest published window is refused.",
    )

    # Whether they are those of the local stack that runs under TXN_HOME.
    _of_local_stack: bool = PrivateAttr(default=False)

    @property
    def of_local_stack(self) -> bool:
        """Whether the lake is that of the local stack which runs under `TXN_HOME`."""
        return self._of_local_stack

    @property
    def directory(self) -> Path:
        """The directory of a lake without a bucket."""
        return (self.lake_directory or self.home / "lake").absolute()

    @classmethod
    def by_the_rule(cls, given: Mapping[str, Any]) -> Self:
        """The settings, with the lake as `load_settings` has it."""
        values: dict[str, Any] = {
            _names(cls.model_fields[name])[0]: value
            for name, value in given.items()
            if value is not None
        }
        if "AWS_BUCKET_NAME" in values:
            values["TXN_LAKE_DIRECTORY"] = None
        settings = cls(**values)
        if settings.lake_directory is not None:
            return settings
        if settings.bucket is not None and not cluster_uses(settings.home, settings.bucket):
            return settings
        stack: dict[str, Any] | None = running_stack(settings.home)
        if stack is None:
            return settings
        for name in _UNLESS_SET & settings.model_fields_set:
            stack.pop(_names(cls.model_fields[name])[0], None)
        if "GENERATOR_URL" in stack:
            # The token is for the source that a setting names.
            stack.setdefault("GENERATOR_TOKEN", None)
        of_stack = settings.bucket is None
        settings = cls(**stack | values)
        settings._of_local_stack = of_stack
        return settings

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read of `.env` only what the environment does not name: what is empty there is unset.

        Of names that belong together, none is read from `.env` when the environment has one.
        """
        environment = cast("EnvSettingsSource", env_settings)
        file = cast("DotEnvSettingsSource", dotenv_settings)
        # Read as UTF-8, a file in UTF-16 has unprintable characters between letters.
        if not all(map(str.isprintable, file.env_vars)):
            raise _unreadable("it is not text in UTF-8")
        hidden = {name.lower() for name in os.environ}
        for together in _TOGETHER:
            if together & hidden:
                hidden |= together
        hidden = hidden | {_TOKEN} if _KEYS & hidden else hidden - {_TOKEN}
        file.env_vars = _stripped(
            {name: value for name, value in file.env_vars.items() if name not in hidden}
        )
        environment.env_vars = _stripped(environment.env_vars)
        if _KEYS & file.env_vars.keys():
            # The environment's token does not belong to the keys of `.env`.
            environment.env_vars = {
                name: value for name, value in environment.env_vars.items() if name != _TOKEN
            }
        return init_settings, environment, file, file_secret_settings

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        # `os.environ` has a lone surrogate for each byte that is not UTF-8.
        if isinstance(value, str) and _UNPRINTABLE.search(value):
            raise ValueError(_ON_ONE_LINE)
        return value

    @field_validator("home", "lake_directory", "dagster_home", check_fields=False)
    @classmethod
    def _is_directory(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        value = require_directory(value)
        try:
            first = next(path for path in (value, *value.absolute().parents) if path.exists())
        except OSError as error:
            raise ValueError(
                f"must be a path that this machine can have: {error.strerror}"
            ) from None
        if not first.is_dir():
            raise ValueError("must be a directory, or one that can be made: it names a file")
        if info.field_name == "dagster_home" and not value.is_absolute():
            raise ValueError("must be an absolute path, as Dagster requires")
        return value

    @field_validator("bucket")
    @classmethod
    def _is_bucket(cls, value: str | None) -> str | None:
        if value is not None and not _BUCKET.fullmatch(value):
            raise ValueError(
                "must be the name of a bucket alone, of letters, digits, dots and hyphens: the"
                " folder in it is TXN_LAKE_PREFIX"
            )
        return value

    @field_validator("lake_directory")
    @classmethod
    def _is_the_only_lake(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("bucket") is not None:
            raise ValueError("must be unset while AWS_BUCKET_NAME is set: both name the lake")
        return value

    @field_validator("first_hour", mode="before")
    @classmethod
    def _is_an_hour(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            window = Window.of_partition(value)
        except UserError:
            window = None
        if window is None or window.end > datetime.now(UTC):
            raise ValueError("must be an hour that is over, in UTC, written as 2026-01-01-00:00")
        return window.start


class Settings(LakeSettings):
    """The platform's settings.

    The credentials are optional: without them boto3's own chain (profile, web identity, instance
    role) finds some.
    """

    dagster_home: Path | None = Field(
        default=None,
        validation_alias="DAGSTER_HOME",
        description="Dagster's own directory: absolute, and there already. Unset, `txn run`"
        " uses the one of `txn dev` if the lake is that of `txn dev`.",
    )
    lake_prefix: str = Field(
        default="lake",
        validation_alias="TXN_LAKE_PREFIX",
        description="The lake's folder within the bucket: any characters but backslashes and"
        " control characters, no empty folder, `.` or `..`, no slash at either end.",
    )
    max_quarantine: float = Field(
        default=0.05,
        ge=0,
        le=1,
        validation_alias="TXN_MAX_QUARANTINE",
        description="The largest share of quarantined rows with which a window is published.",
    )
    card_policy: Literal["token", "clear"] = Field(
        default="token",
        validation_alias="TXN_CARD_POLICY",
        description="`token` replaces card numbers. `clear` publishes them as sent, for"
        " fictitious data, and says so in the object.",
    )
    raw_sse: str | None = Field(
        default=None,
        validation_alias="TXN_RAW_SSE",
        description="The KMS key (id, ARN or alias) that S3 encrypts the raw zone and the"
        " quarantine with.",
    )
    card_mask: Literal["first6last4", "last4", "none"] = Field(
        default="first6last4",
        validation_alias="TXN_CARD_MASK",
        description="The digits of a card number that are published beside its token: the first"
        " six and last four, the last four, or none (`****`).",
    )
    card_key: SecretStr | None = Field(
        default=None,
        validation_alias="TXN_CARD_KEY",
        description="The key of the card tokens, of 128 random bits or more, or a reference to"
        " it: `aws-sm://name` (AWS Secrets Manager) or `file:///path`. Unset, it is made once, in"
        " TXN_HOME/card-key. A bucket with a GENERATOR_URL must be given one.",
    )
    card_key_previous: SecretStr | None = Field(
        default=None,
        validation_alias="TXN_CARD_KEY_PREVIOUS",
        description="The key before, likewise, while `txn rotate-card-key` replaces it.",
    )
    allow_weak_card_key: bool = Field(
        default=False,
        validation_alias="TXN_ALLOW_WEAK_CARD_KEY",
        description="`true` accepts a card key that can be guessed, or in a file that others may"
        " use, until it is replaced.",
    )
    source_format: str = Field(
        default="arrow",
        validation_alias="GENERATOR_FORMAT",
        description="The wire format: `arrow`, `csv`, `ndjson`, or `json` in pages. All give the"
        " same rows.",
    )
    source_read_seconds: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        validation_alias="TXN_SOURCE_READ_SECONDS",
        description="How long the source may send nothing before a request is retried.",
    )
    source_whole_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        validation_alias="TXN_SOURCE_WHOLE_SECONDS",
        description="How long one answer of the source may take.",
    )
    source_attempts: int = Field(
        default=6,
        ge=3,
        le=1_000,
        validation_alias="TXN_SOURCE_ATTEMPTS",
        description="How many times a request is tried if its answers break off, with growing"
        " pauses, or as `Retry-After` says (a minute at most).",
    )
    source_max_bytes: int = Field(
        default=1 << 30,
        ge=1 << 20,
        le=1 << 40,
        validation_alias="TXN_SOURCE_MAX_BYTES",
        description="How much the source may send for one slice of a window, and how much memory"
        " its rows may need.",
    )
    settled_hours: int = Field(
        default=48,
        ge=0,
        le=100_000,
        validation_alias="TXN_SETTLED_HOURS",
        description="How many hours after its end a window is expected to change no more, by the"
        " watermark.",
    )
    lookback_hours: int = Field(
        default=48,
        ge=0,
        le=100_000,
        validation_alias="TXN_LOOKBACK_HOURS",
        description="How many whole hours before the watermark the sensor begins when it is"
        " turned on.",
    )
    feeds: str = Field(
        default="",
        validation_alias="TXN_FEEDS",
        description="The modules of other feeds than the generator, as `stripe_charges,adyen`, for"
        " `--feed` of the commands. They are in the working directory, or installed.",
    )
    alert_webhook: SecretStr | None = Field(
        default=None,
        validation_alias="TXN_ALERT_WEBHOOK",
        description="Where the sensor `alerts` sends its messages: the address of a webhook of"
        " Slack, Discord, Teams or one that takes JSON, or any address of apprise. It needs"
        " the extra `alerts`.",
    )
    ui_url: str = Field(
        default="http://127.0.0.1:3000",
        validation_alias="TXN_UI_URL",
        description="The address of Dagster's UI, as its users open it: for the links in alerts."
        " `txn dev` serves its UI under this name and those of loopback only.",
    )
    postgres_url: SecretStr | None = Field(
        default=None,
        validation_alias="DAGSTER_POSTGRES_URL",
        description="The database of a Dagster instance that several machines share, as"
        " `postgresql://user:password@host:5432/name`. `deploy/dagster.yaml` reads it from the"
        " environment.",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        validation_alias="TXN_BROKER_URL",
        description="The broker that hands runs to workers, a Valkey or Redis, as"
        " `redis://:password@host:6379/0`, or `rediss://` for TLS. `deploy/dagster.yaml` reads it"
        " from the environment.",
    )
    max_concurrent_runs: int = Field(
        default=4,
        ge=1,
        le=100_000,
        validation_alias="TXN_MAX_CONCURRENT_RUNS",
        description="How many runs go at once on workers: as many as all of them have processes."
        " `deploy/dagster.yaml` reads it from the environment, where it must be set.",
    )
    webserver_url: str | None = Field(
        default=None,
        validation_alias="DAGSTER_WEBSERVER_URL",
        description="The address of the Dagster webserver whose run queue `txn run --submit` uses,"
        " without a sign-in before it. Unset, it is that of `txn dev` or `txn cluster`, if their"
        " lake is used.",
    )
    generator_url: str | None = Field(
        default=None,
        repr=False,
        validation_alias="GENERATOR_URL",
        description="The address of the source, without name, password or query. Unset, it is the"
        " generator of the local stack if its lake is used; otherwise each run starts one.",
    )
    source_token: SecretStr | None = Field(
        default=None,
        validation_alias="GENERATOR_TOKEN",
        description="The bearer token of the source: a key of the generator, or of a gateway before"
        " it. It is sent to the origin of GENERATOR_URL only.",
    )
    delta_path: str | None = Field(
        default=None,
        validation_alias="DELTA_LAKE_S3_PATH",
        description="`s3://bucket/folder` or a local directory: published windows are committed"
        " to a Delta table there too. It needs the extra `delta`.",
    )
    access_key_id: str | None = Field(
        default=None,
        repr=False,
        validation_alias="AWS_ACCESS_KEY_ID",
        description="The credentials, with the two below, all from one source: the environment,"
        " or `.env`. Unset, AWS's own chain finds some.",
    )
    secret_access_key: SecretStr | None = Field(
        default=None,
        validation_alias="AWS_SECRET_ACCESS_KEY",
        description="The other half of the credential.",
    )
    session_token: SecretStr | None = Field(
        default=None,
        validation_alias="AWS_SESSION_TOKEN",
        description="The third part of a temporary credential.",
    )
    region: str | None = Field(
        default=None,
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"),
        description="The bucket's region. Unset, the profile's, or us-east-1.",
    )
    endpoint_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        description="The address of an S3-compatible store, without the bucket. Unset, the"
        " profile's, or AWS.",
    )

    profile: str | None = Field(
        default=None,
        validation_alias="AWS_PROFILE",
        description="The AWS profile, which has what no variable has: keys, region, endpoint"
        " (also in `services`), CA, addressing. Unset, `default`.",
    )
    ca_bundle: Path | None = Field(
        default=None,
        validation_alias="AWS_CA_BUNDLE",
        description="A PEM file of certificates that vouch for the store and the source. Unset,"
        " the profile's, or the system's.",
    )
    s3_addressing: Literal["path", "virtual"] | None = Field(
        default=None,
        validation_alias="TXN_S3_ADDRESSING",
        description="`virtual` puts the bucket's name into the host, `path` into the path. Unset,"
        " `path` with an endpoint, and AWS's choice otherwise.",
    )
    request_checksums: Literal["when_supported", "when_required"] | None = Field(
        default=None,
        validation_alias="AWS_REQUEST_CHECKSUM_CALCULATION",
        description="`when_required` for stores without checksums, which answer 411 or 501;"
        " objects are read back instead. Unset, `when_supported`.",
    )
    response_checksums: Literal["when_supported", "when_required"] | None = Field(
        default=None,
        validation_alias="AWS_RESPONSE_CHECKSUM_VALIDATION",
        description="The same for checksums of answers.",
    )

    # The variable of the card key, for messages.
    _card_key_variable: str = PrivateAttr(default="TXN_CARD_KEY")

    @property
    def card_key_variable(self) -> str:
        """The variable that has the card key, for messages."""
        return self._card_key_variable

    def with_card_key(self, value: str, variable: str) -> Self:
        """The same settings with another card key, which has no key before it.

        Args:
            value: of the key, or a reference to it.
            variable: that has it.
        """
        copy = self.model_copy(update={"card_key": SecretStr(value), "card_key_previous": None})
        copy._card_key_variable = variable
        return copy

    @field_validator(
        "access_key_id", "secret_access_key", "session_token", "raw_sse", "source_token"
    )
    @classmethod
    def _fits_a_header(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        if not text.isascii() or " " in text:
            raise ValueError("must be ASCII without white space")
        return value

    @field_validator("region")
    @classmethod
    def _is_region(cls, value: str | None) -> str | None:
        if value is not None and not _REGION.fullmatch(value):
            raise ValueError("must be the name of a region, such as us-east-1")
        return value

    @field_validator("request_checksums", "response_checksums", mode="before")
    @classmethod
    def _in_lower_case(cls, value: str | None) -> str | None:
        return value.lower() if value else value

    @field_validator("generator_url", "ui_url", "webserver_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return None if value is None else http_address(value)

    @field_validator("alert_webhook")
    @classmethod
    def _is_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _WEBHOOK.fullmatch(value.get_secret_value()):
            raise ValueError(
                "must be one address without white space: the one that the service shows for its"
                " webhook, or one of apprise"
            )
        return value

    @field_validator("postgres_url")
    @classmethod
    def _is_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            require_database(value.get_secret_value())
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_broker(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            require_broker(value.get_secret_value())
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else s3_endpoint(value)

    @field_validator("delta_path")
    @classmethod
    def _is_delta_path(cls, value: str | None) -> str | None:
        return require_delta_place(value) if value else value

    @field_validator("lake_prefix")
    @classmethod
    def _is_folder(cls, value: str) -> str:
        return require_folder(value)

    @classmethod
    @override
    def settings_customise_sources(
        cls, *args: Any, **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """As `LakeSettings`, and refuse settings of earlier versions: they named another source.

        Raises:
            UserError: there is one.
        """
        chosen = super().settings_customise_sources(*args, **sources)
        for source in chosen:
            if isinstance(source, EnvSettingsSource):
                _require_none_removed(source.env_vars)
        return chosen

    def secrets(self) -> list[str]:
        """The values that nothing may show, the longest first."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        values.append(self.access_key_id or "")
        # Libraries also name the parts of an address.
        values += [password_of(value) for value in values if "://" in value]
        long = [value for value in values if len(value) >= _SHORTEST_SECRET]
        return sorted(long, key=len, reverse=True)


def load_settings(**given: Any) -> Settings:
    """The settings as the environment, `.env` and a running local stack have them now.

    The lake is the first of these:

    1. The one that `given`, the environment or `.env` names, by its bucket or its directory.
    2. The lake of the local stack or cluster that runs under `TXN_HOME`. Its generator is then the
       source, and its first hour the first partition, unless a setting names others.
    3. The directory `TXN_HOME/lake`.

    Args:
        given: settings by the names of their fields, which come before the environment; None is
            unset.

    Raises:
        UserError: a variable's value is not allowed, or `.env` can't be read; names the variable,
            not the value.
    """
    return _load(Settings, given)


def load_first_hour() -> datetime:
    """The first partition, by the same rule, without a look at settings that do not bear on it.

    Raises:
        UserError: as for `load_settings`.
    """
    return _load(LakeSettings, {}).first_hour


def _load[Kind: LakeSettings](kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    try:
        _require_readable_lines()
        return kind.by_the_rule(given)
    except ValidationError as error:
        env_file_names = env_file_variables()
        faults = "; ".join(
            f"{_variable(str(fault['loc'][0]), env_file_names)}:"
            f" {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise UserError(
            f"the environment or .env has a value that is not allowed: {faults}"
        ) from None
    except OSError as error:
        raise _unreadable(str(error.strerror)) from None
    except UnicodeDecodeError:
        raise _unreadable("it is not text in UTF-8") from None


def env_file_variables() -> list[str]:
    """The names that `.env` sets, in lower case; none without the file.

    Raises:
        UserError: it can't be read.
    """
    return list(_env_file())


def _require_none_removed(names: Collection[str]) -> None:
    for name, attribute in _REMOVED.items():
        if name.lower() in names:
            raise UserError(
                f"{name} is no setting any more: remove it, and describe the API in Python, as a"
                f" SourceApi whose {attribute} replaces it (docs/own-api.md)"
            )


def _env_file() -> Mapping[str, str | None]:
    try:
        return DotEnvSettingsSource(Settings, env_ignore_empty=False).env_vars
    except OSError as error:
        raise _unreadable(str(error.strerror)) from None
    except UnicodeDecodeError:
        raise _unreadable("it is not text in UTF-8") from None


def _require_readable_lines() -> None:
    """Refuse a `.env` with a line that its parser would ignore."""
    path = Path(ENV_FILE)
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for binding in parse_stream(file):
            if binding.error:
                text = binding.original.string
                line = binding.original.line + text[: -len(text.lstrip())].count("\n")
                raise UserError(
                    f"{path.absolute()} cannot be read from line {line} on: write NAME=value there,"
                    " with every quote closed, or a comment after #"
                )


def _unreadable(reason: str) -> UserError:
    return UserError(
        f"{Path(ENV_FILE).absolute()} cannot be read ({reason}): save it as text in UTF-8, or"
        " remove it"
    )


def environment_value(name: str) -> str | None:
    """The value of a variable that is no setting, by the rule of settings; None if it is unset.

    Raises:
        UserError: it is no text on one line, or `.env` can't be read; shows no value.
    """
    value = os.environ.get(name)
    if value is None:
        _require_readable_lines()
        value = _env_file().get(name.lower())
    value = _bare(value or "")
    if _UNPRINTABLE.search(value):
        raise UserError(f"{name} {_ON_ONE_LINE}")
    return value or None


def variables() -> list[str]:
    """The names of all variables that are read here."""
    return [name for field in Settings.model_fields.values() for name in _names(field)]


def _names(field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    return list(map(str, alias.choices)) if isinstance(alias, AliasChoices) else [str(alias)]


def _variable(location: str, env_file_names: Collection[str]) -> str:
    """The variable of a setting that takes effect, by the setting's name or its first variable."""
    set_names = {
        *(name.upper() for name, value in os.environ.items() if value.strip()),
        *map(str.upper, env_file_names),
    }
    for name, field in Settings.model_fields.items():
        names = _names(field)
        if location == name or location.upper() in names:
            return next(filter(set_names.__contains__, names), names[0])
    return location


def _stripped(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """The variables with trimmed values, without those that are empty then."""
    bare = {name: value and _bare(value) for name, value in variables.items()}
    return {
        name: variables[name] if name in _LITERAL else value
        for name, value in bare.items()
        if value
    }


def _bare(value: str) -> str:
    return value.strip().strip(_INVISIBLE).strip()
