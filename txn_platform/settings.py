"""What the environment (and `.env`) may say to the platform, and nothing else.

Every environment variable the platform reads is a field here. Objects are built from settings
elsewhere: `lake.open_lake`, `source.Source`, and the resources in `defs/resources.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, cast, override

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from txn_platform.addresses import require_delta_place, require_directory, require_folder
from txn_platform.errors import UserError


class Settings(BaseSettings):
    """The platform's settings; an empty variable counts as unset, and hides that of `.env`.

    The credentials are optional: without them boto3's own chain (profile, web identity, instance
    role) finds some.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(
        default=Path(".txn"),
        validation_alias="TXN_HOME",
        description="Where local state lives: the directory lake, staging, keys, logs.",
    )
    lake_prefix: str = Field(
        default="lake",
        validation_alias="TXN_LAKE_PREFIX",
        description="The lake's folder within the bucket; no slash at either end.",
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
        description="`clear` publishes card numbers as sent, for data that is fictitious.",
    )
    raw_sse: str | None = Field(
        default=None,
        validation_alias="TXN_RAW_SSE",
        description="The KMS key (id, ARN or alias) that S3 encrypts raw and quarantine with.",
    )
    card_key: SecretStr | None = Field(
        default=None,
        validation_alias="TXN_CARD_KEY",
        description="The key of card tokens; made once under TXN_HOME when unset.",
    )
    source_format: Literal["arrow", "csv", "ndjson", "json"] = Field(
        default="arrow",
        validation_alias="GENERATOR_FORMAT",
        description="The wire format: the first three stream a window, json comes in pages.",
    )
    source_transactions: str | None = Field(
        default=None,
        validation_alias="TXN_SOURCE_TRANSACTIONS",
        description="Of a source that is not the generator: the path of a window's rows, with"
        " {start}, {end}, {as_of}, {offset} where they belong.",
    )
    source_items: str = Field(
        default="data",
        validation_alias="TXN_SOURCE_ITEMS",
        description="The names under which a JSON page has its rows, joined by dots.",
    )
    source_next: str = Field(
        default="next",
        validation_alias="TXN_SOURCE_NEXT",
        description="The names under which a JSON page has the next page's address.",
    )
    source_next_absent: Literal["end"] | None = Field(
        default=None,
        validation_alias="TXN_SOURCE_NEXT_ABSENT",
        description="`end` for a source that leaves the next page's address out on its last page.",
    )
    source_read_seconds: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        validation_alias="TXN_SOURCE_READ_SECONDS",
        description="How long the source may send nothing before it is asked again.",
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
        validation_alias="TXN_SOURCE_ATTEMPTS",
        description="How often one thing is asked of the source when its answers break off.",
    )
    source_max_bytes: int = Field(
        default=1 << 30,
        ge=1 << 20,
        validation_alias="TXN_SOURCE_MAX_BYTES",
        description="How much the source may send for one slice of a window, which is in memory.",
    )
    generator_url: str | None = Field(
        default=None,
        validation_alias="GENERATOR_URL",
        description="Where the source answers; unset, the generator is started for the run.",
    )
    bucket: str | None = Field(
        default=None,
        validation_alias="AWS_BUCKET_NAME",
        description="The bucket of the lake; unset, the lake is the directory TXN_HOME/lake.",
    )
    delta_path: str | None = Field(
        default=None,
        validation_alias="DELTA_LAKE_S3_PATH",
        description="Where published windows are committed to a Delta table too: s3://bucket/folder"
        " or a local directory; unset, nowhere.",
    )
    access_key_id: str | None = Field(
        default=None, validation_alias="AWS_ACCESS_KEY_ID", description="Half of a credential."
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
        description="The bucket's region.",
    )
    endpoint_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        description="An S3-compatible store's address; unset, AWS.",
    )

    s3_addressing: Literal["path", "virtual"] | None = Field(
        default=None,
        validation_alias="TXN_S3_ADDRESSING",
        description="Where the bucket's name goes, the path or the host; unset, the path for a"
        " store with an address, and what AWS wants otherwise.",
    )
    request_checksums: Literal["when_supported", "when_required"] | None = Field(
        default=None,
        validation_alias="AWS_REQUEST_CHECKSUM_CALCULATION",
        description="`when_required` for stores that know no checksums of S3's.",
    )
    response_checksums: Literal["when_supported", "when_required"] | None = Field(
        default=None,
        validation_alias="AWS_RESPONSE_CHECKSUM_VALIDATION",
        description="`when_required` for stores that can't be asked for their checksums.",
    )

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
        """Read of `.env` only what the environment does not name: what is empty there is unset."""
        file = cast("DotEnvSettingsSource", dotenv_settings)
        named = {name.lower() for name in os.environ}
        file.env_vars = {name: value for name, value in file.env_vars.items() if name not in named}
        return init_settings, env_settings, file, file_secret_settings

    @field_validator("request_checksums", "response_checksums", mode="before")
    @classmethod
    def _in_lower_case(cls, value: str | None) -> str | None:
        return value.lower() if value else value

    @field_validator("generator_url", "endpoint_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            msg = "must begin with http:// or https://"
            raise ValueError(msg)
        if value is not None and "@" in value.partition("://")[2].partition("/")[0]:
            msg = "must not hold a name or password: addresses are shown in messages"
            raise ValueError(msg)
        return value.rstrip("/") if value else value

    @field_validator("delta_path")
    @classmethod
    def _is_delta_path(cls, value: str | None) -> str | None:
        return require_delta_place(value) if value else value

    @field_validator("lake_prefix")
    @classmethod
    def _is_folder(cls, value: str) -> str:
        return require_folder(value)

    @field_validator("home")
    @classmethod
    def _is_directory(cls, value: Path) -> Path:
        return require_directory(value)


def load_settings() -> Settings:
    """The settings as the environment and `.env` have them now.

    Raises:
        UserError: a variable's value is not allowed; names the variable, not the value.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise UserError(
            f"the environment or .env has a value that is not allowed: {faults}"
        ) from None
