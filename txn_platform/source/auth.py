"""How requests to a source are authenticated: headers, whose secrets the environment has.

A value of a secret is read when a request is made. No object here holds one, and none shows one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from txn_platform.errors import UserError
from txn_platform.runbook import Section
from txn_platform.settings import environment_value
from txn_platform.source.requests import Request

type Auth = Callable[[Request], Mapping[str, str]]
"""A function of a request that gives the headers which authenticate it."""

# In lower case a name is most likely the secret itself.
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A field's value (RFC 9110, 5.5), of ASCII only, because servers differ on other characters.
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class SecretError(UserError):
    """A secret is not set, or cannot be sent. The message shows no value."""


@dataclass(frozen=True)
class Secret:
    """A value that the environment, or `.env`, has under a name. It is never shown.

    Attributes:
        variable: its name, in upper case.

    Raises:
        UserError: it is no name of a variable.
    """

    variable: str

    def __post_init__(self) -> None:
        if not _VARIABLE.fullmatch(self.variable):
            raise UserError(
                "a Secret is given something else than the name of a variable: write the name, in"
                ' upper case, as in Secret("STRIPE_API_KEY"), and set the variable to the value',
                Section.SETTINGS,
            )

    def value(self) -> str:
        """The value, without white space around it.

        Raises:
            SecretError: it is not set, or is no text on one line.
        """
        try:
            value = environment_value(self.variable)
        except UserError as error:
            raise SecretError(str(error), error.section) from None
        if value is None:
            raise SecretError(
                f"{self.variable} is not set: the source needs it; set it in the environment or in"
                " .env",
                Section.SETTINGS,
            )
        return value


@dataclass(frozen=True)
class SignIn:
    """Headers of requests, and the remedy when the source refuses them.

    Attributes:
        headers: see `Auth`.
        remedy: the end of the message of a refusal.
    """

    headers: Auth
    remedy: str

    def __call__(self, request: Request) -> Mapping[str, str]:
        """The headers of a request."""
        return self.headers(request)


def bearer(secret: Secret) -> Auth:
    """A bearer token (RFC 6750)."""
    return SignIn(
        lambda _: {"Authorization": f"Bearer {_header_value(secret, spaces=False)}"},
        _set_another(secret),
    )


def header(name: str, secret: Secret) -> Auth:
    """A header with an API key, such as `X-Api-Key`.

    Raises:
        UserError: the name is none of a header.
    """
    _require_header_name(name)
    return SignIn(
        lambda _: {name: _header_value(secret, spaces=True)},
        _set_another(secret),
    )


def basic(user: Secret, password: Secret | None = None) -> Auth:
    """A user and a password (RFC 7617), in UTF-8. Some APIs take a key as the user alone."""

    def headers(_: Request) -> Mapping[str, str]:
        name = user.value()
        if ":" in name:
            raise SecretError(
                f"{user.variable} has a colon, which a user's name cannot have: set another",
                Section.SETTINGS,
            )
        pair = f"{name}:{password.value() if password else ''}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}

    return SignIn(headers, _set_another(user, *([password] if password else [])))


def remedy(auth: Auth | None) -> str:
    """The remedy when the source refuses requests with these headers (401, 403)."""
    if auth is None:
        return "give its SourceApi an auth, such as bearer(Secret(...))"
    if isinstance(auth, SignIn):
        return auth.remedy
    return f"look at {name_of(auth)}, the auth of its SourceApi"


def headers_of(auth: Auth | None, request: Request) -> dict[str, str]:
    """The headers that authenticate a request.

    Raises:
        UserError: a secret is not set, or the function fails, exits or gives what is no header.
            The message shows no value.
        OSError: the function could not reach another server, so that another attempt may succeed.
    """
    if auth is None:
        return {}
    try:
        headers = dict(auth(request))
    except (SecretError, OSError):
        raise
    except (Exception, SystemExit) as error:
        # Its message can have a secret.
        raise _refused(auth, f"fails with {type(error).__name__}{_place(error)}") from None
    for name, value in headers.items():
        if not _is_header(name, value):
            raise _refused(auth, "gives what is no header")
    return headers


def _is_header(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return bool(_HEADER.fullmatch(name) and _VALUE.fullmatch(value))


def _header_value(secret: Secret, *, spaces: bool) -> str:
    value = secret.value()
    if not _VALUE.fullmatch(value) or (" " in value and not spaces):
        raise SecretError(
            f"{secret.variable} has a value that a header cannot carry: set it to ASCII without"
            f" {'control characters' if spaces else 'white space'}",
            Section.SETTINGS,
        )
    return value


def _require_header_name(name: str) -> None:
    if not _HEADER.fullmatch(name):
        raise UserError(
            "header(...) is given a name that no header can have: write its name alone",
            Section.SETTINGS,
        )


def _set_another(*secrets: Secret) -> str:
    # No type checker has looked at what a user writes.
    given: tuple[Any, ...] = secrets
    if not all(isinstance(each, Secret) for each in given):
        # Without the value: it is most likely the secret.
        raise UserError(
            "bearer, header and basic take Secret(...) alone: write Secret with the name of a"
            " variable, and set the variable to the value",
            Section.SETTINGS,
        )
    names = " and ".join(secret.variable for secret in secrets)
    return f"it does not let {names} read this; set another value"


def _refused(auth: Auth, fault: str) -> UserError:
    return UserError(
        f"{name_of(auth)}, the auth of the source, {fault}: it must be a function of a request that"
        " gives headers as text, by name",
        Section.SETTINGS,
    )


def name_of(auth: Auth) -> str:
    """The name of a function, for messages."""
    return getattr(auth, "__name__", type(auth).__name__)


def _place(error: BaseException) -> str:
    """The line of the function that failed, or that called what failed."""
    trace = error.__traceback__ and error.__traceback__.tb_next
    if trace is None:
        return ""
    return f" in line {trace.tb_lineno} of {Path(trace.tb_frame.f_code.co_filename).name}"
