"""The settings of the service: GENERATOR_ variables, from the environment or `.env`.

The simulator's `Configuration` validates the settings that decide the rows.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, override

from dotenv.parser import parse_stream
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from generator_service.computations import Computations
from generator_service.defects import DefectInjector, Defects, parse_drifts
from generator_service.faults import parse_setting
from generator_service.simulator import SCHEMA, Configuration, Window, pools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

_PREFIX = "GENERATOR_"
_ENV_FILE = ".env"
_KEYS_FILE = ".generator-keys.json"
# Zero-width characters, which are copied from web pages along with a value.
_INVISIBLE = "\ufeff\u200b\u2060"
# Longest part of a value that a message shows.
_SHOWN = 100
_NOT_UTF_8 = "it is not text in UTF-8"
_DECIDING = tuple(field.name for field in fields(Configuration))


class SettingsError(ValueError):
    """A setting cannot be used; the message names the variable, its value and the allowed ones."""


class Settings(BaseSettings):
    """The settings of the service; the variable of each has the prefix GENERATOR_.

    Use `load`, which turns a validation error into one message.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=_ENV_FILE,
        # Some editors write a byte order mark.
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    seed: int = Field(Configuration.seed, description="The seed of all generated data.")
    tps: float = Field(Configuration.tps, description="Mean transactions a second, over a year.")
    customers: int = Field(Configuration.customers, description="How many customers there are.")
    merchants: int = Field(Configuration.merchants, description="How many merchants there are.")
    locale: str = Field(Configuration.locale, description="A locale of Faker, for names and towns.")
    preset: str = Field(
        Configuration.preset,
        description="`realistic`, or `handbook`: the Fraud Detection Handbook's model.",
    )
    fraud_rate: float = Field(Configuration.fraud_rate, description="The share of fraud.")
    difficulty: float = Field(
        Configuration.difficulty,
        description="How closely fraud resembles normal rows, from 0 to 1.",
    )

    defects: str = Field(
        "",
        description="Injects defects into rows: `all:0.02`, or kinds with rates"
        " (`amount_scale:0.01,duplicate_id:0.005`). The kinds are in `/docs`.",
    )
    drift: str = Field(
        "",
        description="A schema that changes: `rename:amount:value:2026-11-02T00:00:00Z`, also"
        " `add`, `drop`, `retype`.",
    )
    faults: str = Field(
        "",
        description="Causes faults of the transport: `status=503:0.01,retry_after=2`,"
        " `stall=5000:first2`, also `latency`, `reset`, `cut`, `length`, `garbage`, as `/docs`"
        " explains. `header` allows faults by the request header `X-Generator-Faults`, which is"
        " refused otherwise.",
    )

    host: str = Field("127.0.0.1", description="The address on which the service listens.")
    port: int = Field(
        8_000,
        ge=0,
        le=65_535,
        description="The port on which the service listens; 0 for a free one. Beside a Kubernetes"
        " Service named `generator`, pods get a `GENERATOR_PORT=tcp://...`: set a number, or"
        " `enableServiceLinks: false`.",
    )
    max_window_hours: int = Field(744, ge=1, description="The longest window of one request.")
    default_limit: int = Field(
        1_000, ge=1, description="Rows of a page, if the request does not say how many."
    )
    max_limit: int = Field(50_000, ge=1, description="The most rows that a page may have.")
    access_log: bool = Field(
        default=False, description="Whether each request is a line on standard error."
    )
    keys_file: Path | None = Field(
        None,
        description="The file of the keys that `python -m generator_service keys` makes. Unset, it"
        " is `.generator-keys.json` in the working directory, if there is one. With it, each"
        " request needs a key; without it, the service answers this machine only.",
    )
    open: bool = Field(
        default=False,
        description="Whether a service without keys also answers other machines, and requests that"
        " a proxy forwards.",
    )
    docs: bool = Field(default=True, description="Whether there is a page at `/docs`.")
    ssl_certfile: Path | None = Field(
        None,
        description="The certificates of the service, PEM. With it the service speaks HTTPS only.",
    )
    ssl_keyfile: Path | None = Field(
        None,
        description="The private key of the certificate, PEM, without a password. Unset, it is in"
        " the file of the certificates.",
    )

    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="How many processes of `python -m generator_service` serve the port. They share"
        " the memory of the population. The two bounds below are those of each process.",
    )
    max_computations: int | None = Field(
        None,
        ge=1,
        description="How many large answers are computed and sent at once; each takes up to 400 MB."
        " Unset, the number of cores divided by the workers. Further requests wait.",
    )
    max_queued: int = Field(
        16,
        ge=0,
        description="How many requests for large answers may wait, up to 30 seconds. The others get"
        " status 503.",
    )
    max_computed_rows: int = Field(
        50_000_000,
        ge=1,
        description="The most rows of a window with defects whose totals, pages or account are"
        " computed.",
    )
    answer_seconds: float = Field(
        3_600,
        gt=0,
        description="How long an answer may take, from its request to its last byte.",
    )
    cursor_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="A secret of 16 or more characters that signs cursors. Unset, each start has a"
        " random one: a cursor is then refused after a restart, and by services of other hosts.",
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
        """Strip white space around values; an empty value counts as unset."""
        environment = cast("EnvSettingsSource", env_settings)
        file = cast("DotEnvSettingsSource", dotenv_settings)
        # UTF-16 read as UTF-8 has control characters between the letters.
        if not all(map(str.isprintable, file.env_vars)):
            raise SettingsError(_unreadable(_NOT_UTF_8))
        environment.env_vars = _stripped(environment.env_vars)
        file.env_vars = _stripped(file.env_vars)
        return init_settings, environment, file, file_secret_settings

    @field_validator("port", mode="before")
    @classmethod
    def _is_not_of_kubernetes(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith(("tcp://", "udp://", "sctp://")):
            raise ValueError(
                "it is what Kubernetes sets in every pod beside a Service named `generator`; set "
                f"{_PREFIX}PORT to a number in the pod's own `env`, or `enableServiceLinks: false`"
                " in its spec, or give the Service another name"
            )
        return value

    @field_validator(*_DECIDING)
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        Configuration(**{str(info.field_name): value})
        return value

    @field_validator("locale")
    @classmethod
    def _known(cls, value: str) -> str:
        pools.load(value)
        return value

    @field_validator("defects")
    @classmethod
    def _names_defects(cls, value: str) -> str:
        return _readable(value, Defects.parse)

    @field_validator("drift")
    @classmethod
    def _names_drifts(cls, value: str) -> str:
        return _readable(value, parse_drifts)

    @field_validator("faults")
    @classmethod
    def _names_faults(cls, value: str) -> str:
        return _readable(value, parse_setting)

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.default_limit > self.max_limit:
            raise ValueError(
                f"{_PREFIX}DEFAULT_LIMIT={self.default_limit} cannot be used: it is more than "
                f"{_PREFIX}MAX_LIMIT={self.max_limit}."
            )
        return self

    @model_validator(mode="after")
    def _key_has_its_certificate(self) -> Self:
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError(f"{_PREFIX}SSL_KEYFILE needs {_PREFIX}SSL_CERTFILE beside it.")
        return self

    @property
    def keys_path(self) -> Path:
        """The file of the keys, whether or not there is one."""
        return self.keys_file or Path(_KEYS_FILE)

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the settings.

        Args:
            given: values that override the environment, which overrides `.env`.

        Raises:
            SettingsError: a value cannot be used; the message is about the first.
        """
        try:
            _require_valid_lines()
            return cls(**given)
        except ValidationError as error:
            raise SettingsError(_message(error)) from None
        except OSError as error:
            raise SettingsError(_unreadable(str(error.strerror))) from None
        except UnicodeDecodeError:
            raise SettingsError(_unreadable(_NOT_UTF_8)) from None

    def computations(self) -> Computations:
        """Return what gives turns to computations."""
        return Computations(
            self.max_computations or max(1, (os.cpu_count() or 1) // self.workers),
            self.max_queued,
            self.answer_seconds,
        )

    def secret_of_cursors(self) -> bytes | None:
        """Return the key that signs cursors; None for a random one."""
        key = self.cursor_key
        return None if key is None else key.get_secret_value().encode()

    def configuration(self) -> Configuration:
        """Return the settings that decide the rows."""
        return Configuration(**{name: getattr(self, name) for name in _DECIDING})

    def injector(
        self, window: Window, defects: str | None = None, schema: pa.Schema = SCHEMA
    ) -> DefectInjector:
        """Return the injector for a window.

        Args:
            window: the window of the rows.
            defects: used instead of the setting, when given.
            schema: the schema of the simulator's batches.

        Raises:
            ValueError: `defects` cannot be read; the message says what to send instead.
        """
        rates = Defects.parse(self.defects if defects is None else defects)
        return DefectInjector(rates, parse_drifts(self.drift), self.seed, window, schema)


def variables() -> list[str]:
    """Return the names of all variables that the service reads."""
    return [f"{_PREFIX}{name.upper()}" for name in Settings.model_fields]


def _readable(value: str, parse: Callable[[str], object]) -> str:
    try:
        parse(value)
    except ValueError as error:
        raise ValueError(f"write {error}") from None
    return value


def _stripped(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    bare = {
        name: value and value.strip().strip(_INVISIBLE).strip() for name, value in variables.items()
    }
    return {name: value for name, value in bare.items() if value}


def _require_valid_lines() -> None:
    """Refuse a `.env` with a line that its parser would skip."""
    path = Path(_ENV_FILE)
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for binding in parse_stream(file):
            if binding.error:
                text = binding.original.string
                line = binding.original.line + text[: -len(text.lstrip())].count("\n")
                raise SettingsError(
                    f"{path.absolute()} cannot be read from line {line} on: write NAME=value there,"
                    " with every quote closed, or a comment after #."
                )


def _unreadable(reason: str) -> str:
    path = Path(_ENV_FILE).absolute()
    return f"{path} cannot be read ({reason}): save it as text in UTF-8, or remove it."


def _message(error: ValidationError) -> str:
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    name = f"{_PREFIX}{first['loc'][0]}".upper()
    if first["loc"][0] == "cursor_key":
        return f"{name} cannot be used: it is a secret of 16 or more characters."
    value = "".join(filter(str.isprintable, str(first["input"])))[:_SHOWN]
    return f"{name}={value} cannot be used: {reason[0].lower()}{reason[1:].rstrip('.')}."
