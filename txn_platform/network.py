"""The proxy and the certificates of a request, for every library that makes requests.

The environment is read by one rule: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` in upper or lower
case, the latter first, as `urllib` does. The libraries read no variables themselves.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies_environment

from txn_platform.errors import UserError
from txn_platform.http_addresses import require_host
from txn_platform.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    import urllib3

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, repr=False)
class Proxy:
    """An HTTP proxy. Its `repr` shows nothing, because its address may have a password.

    Attributes:
        url: its address, with name and password if it has them.
        scheme: of connections to the proxy, `http` or `https`.
        host: its host.
        port: its port.
        username: None for an open proxy.
        password: None for an open proxy.
    """

    url: str
    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None


def proxy_for(url: str) -> Proxy | None:
    """The proxy for requests to an address; None for direct requests.

    Loopback is never asked through a proxy. `NO_PROXY` takes hosts, domains, addresses, networks
    (`10.0.0.0/8`) and `*`.

    Raises:
        UserError: the variable names what is no HTTP proxy; its value is not shown.
    """
    proxies = getproxies_environment()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        # Whoever asks it says so.
        return None
    address = proxies.get(parts.scheme, "").strip()
    if not address or _is_loopback(host) or _is_excluded(host, port, proxies.get("no", "")):
        return None
    try:
        return _parsed(address if "://" in address else f"http://{address}")
    except (KeyError, ValueError):
        raise UserError(
            f"{_variable(parts.scheme)} does not name an HTTP proxy: write its scheme, host and"
            f" port, as in http://proxy:3128, or name {host} in NO_PROXY"
        ) from None


def _variable(scheme: str) -> str:
    """The variable that names the proxy; lower case comes first."""
    lower = f"{scheme}_proxy"
    return lower if os.environ.get(lower) else lower.upper()


def without_proxy_for_loopback() -> dict[str, str]:
    """Variables that make other programs connect to loopback addresses directly."""
    excluded = getproxies_environment().get("no", "").split(",")
    joined = ",".join(dict.fromkeys(filter(None, [*excluded, *_LOOPBACK])))
    return {"NO_PROXY": joined, "no_proxy": joined}


def require_certificates(bundle: Path) -> None:
    """Read a file of certificates as OpenSSL does.

    Raises:
        UserError: there is none, or it is no PEM file of certificates.
    """
    try:
        ssl.create_default_context(cafile=str(bundle))
    except OSError as error:
        reason = error.strerror if error.filename or error.errno else "no certificate in PEM form"
        raise UserError(
            f"the CA bundle {bundle} can't be used ({reason}): set AWS_CA_BUNDLE, or the AWS"
            " profile's ca_bundle, to a PEM file of certificates"
        ) from None


def pool_manager(url: str, **options: Any) -> urllib3.PoolManager:
    """A connection pool of urllib3 for an address, through its proxy if it has one.

    The certificates of `AWS_CA_BUNDLE` are trusted besides the system's.

    Args:
        url: of the server.
        options: of `urllib3.PoolManager`.

    Raises:
        UserError: see `proxy_for` and `require_certificates`.
    """
    import urllib3

    if url.startswith("https:") and (ca_bundle := load_settings().ca_bundle) is not None:
        require_certificates(ca_bundle)
        context = ssl.create_default_context()
        context.load_verify_locations(str(ca_bundle))
        options["ssl_context"] = context
    proxy = proxy_for(url)
    if proxy is None:
        return urllib3.PoolManager(**options)
    headers = (
        urllib3.make_headers(proxy_basic_auth=f"{proxy.username}:{proxy.password or ''}")
        if proxy.username
        else None
    )
    return urllib3.ProxyManager(
        f"{proxy.scheme}://{_bracketed(proxy.host)}:{proxy.port}", proxy_headers=headers, **options
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _parsed(url: str) -> Proxy:
    parts = urlsplit(url)
    usual = _PORTS[parts.scheme]
    port = usual if parts.port is None else parts.port
    # Also for `user:pa/ss@host`, which looks like a host, a port and a path.
    if port == 0 or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("no address of a server alone")
    host = parts.hostname or ""
    require_host(host)
    username, password = (unquote(part or "") for part in (parts.username, parts.password))
    # They are sent in a header.
    (username + password).encode("latin-1")
    # All libraries get the same normalized address.
    user = f"{quote(username, safe='')}:{quote(password, safe='')}@" if username else ""
    return Proxy(
        url=f"{parts.scheme}://{user}{_bracketed(host)}:{port}",
        scheme=parts.scheme,
        host=host,
        port=port,
        username=username or None,
        password=password or None,
    )


def _is_excluded(host: str, port: int | None, excluded: str) -> bool:
    for entry in excluded.lower().split(","):
        name = entry.strip()
        if "/" in name:
            with suppress(ValueError):
                if ip_address(host) in ip_network(name, strict=False):
                    return True
        name = name.removesuffix(f":{port}").lstrip(".").strip("[]")
        if name == "*" or (name and f".{host}".endswith(f".{name}")):
            return True
    return False
