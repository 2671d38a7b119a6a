"""Checks of the addresses that settings name."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_LONGEST_HOST: Final = 253
_PORT: Final = "must have a port from 1 to 65535, or none"


def http_address(value: str) -> str:
    """Check the address of a server; returns it with a lower-case scheme and no final slash.

    A host may have underscores, which names of container services have.

    Raises:
        ValueError: it cannot be used; says what it must be, and shows nothing of it.
    """
    scheme, separator, rest = value.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        raise ValueError("must begin with http:// or https://")
    # A password with a slash ends the host too early, so an @ is refused in the whole address.
    if "@" in rest:
        raise ValueError("must not hold a name or password (write %40 for an @ of its path)")
    if any(character.isspace() or character == "\\" for character in rest):
        raise ValueError("must not hold white space or a backslash")
    if "?" in rest or "#" in rest:
        raise ValueError(
            "must end before its ? or # (a query of the source belongs to the paths of its API)"
        )
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(f"must name a host, and {_PORT}") from None
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(_PORT)
    require_host(parts.hostname or "")
    return f"{scheme.lower()}://{rest}".rstrip("/")


def require_host(host: str) -> None:
    """Check the name or the address of a host, an IPv6 address without its brackets.

    Raises:
        ValueError: it is none; says what it must be.
    """
    if not host:
        raise ValueError("must name a host")
    if not host.isascii():
        raise ValueError("must have its host in ASCII: write the form that begins with xn--")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("must have an IPv6 address between its brackets") from None
        return
    labels = host.removesuffix(".").split(".")
    if len(host) > _LONGEST_HOST or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("must have a host of letters, digits, hyphens and dots")


def s3_endpoint(value: str) -> str:
    """Check the address of an S3: as `http_address`, and by the rules of boto3.

    Raises:
        ValueError: as `http_address`.
    """
    address = http_address(value)
    if "_" in (urlsplit(address).hostname or ""):
        raise ValueError(
            "must have a host without an underscore, which S3 clients refuse: give the server"
            " another name (in Docker Compose, a network alias), or use its IP address"
        )
    return address
