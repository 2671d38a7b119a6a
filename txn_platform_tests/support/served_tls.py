"""A TLS front with its own CA, and a forward proxy that counts requests, for use before a store.

Both listen on a free port of 127.0.0.1 until their blocks end. They do not read the content.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections import Counter
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, override
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from txn_platform_tests.support.listener import Listener

if TYPE_CHECKING:
    from pathlib import Path

_LIFETIME: Final = timedelta(days=1)


class TlsFront(Listener):
    """Ends TLS, and passes the content on.

    Attributes:
        url: its address, `https://localhost:...`.
        ca: a PEM file with the certificate of the CA that vouches for it.
    """

    def __init__(self, upstream: str, directory: Path) -> None:
        """Before an `http://` address; its certificates are made in a directory."""
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self.ca = directory / "ca.pem"
        super().__init__(_server_context(self.ca, directory / "server.pem"))
        self.url = f"https://localhost:{self.port}"

    @override
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _relay(reader, writer, *self._upstream)


class ForwardProxy(Listener):
    """An HTTP proxy: `CONNECT`, and requests with a whole address.

    Args:
        credentials: `name:password` that each request must carry; None for an open proxy.
        forward: the real targets of connections, by the requested name.

    Attributes:
        address: `host:port`.
        requests: the number of requests for each `host:port`.
    """

    def __init__(
        self, credentials: str | None = None, forward: dict[str, tuple[str, int]] | None = None
    ) -> None:
        self._forward = forward or {}
        self._authorization = (
            f"basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None
        )
        self.requests: Counter[str] = Counter()
        super().__init__()
        self.address = f"127.0.0.1:{self.port}"
        name, _, password = (credentials or "").partition(":")
        self.url = (
            f"http://{quote(name, safe='')}:{quote(password, safe='')}@{self.address}"
            if credentials
            else self.address
        )

    @override
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        authority = target if method == "CONNECT" else urlsplit(target).netloc
        self.requests[authority] += 1
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        given = headers.get("proxy-authorization", "")
        wanted = self._authorization
        if wanted is not None and (
            given.partition(" ")[0].lower() != "basic"
            or given.partition(" ")[2] != wanted.partition(" ")[2]
        ):
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n"
                b'Proxy-Authenticate: Basic realm="test"\r\nConnection: close\r\n\r\n'
            )
            await writer.drain()
            return
        host, _, port = authority.rpartition(":")
        upstream = self._forward.get(authority, (host, int(port or 80)))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _relay(reader, writer, *upstream)
        else:
            # One request a connection: the next one may be for another host.
            path = target.partition("://")[2].partition("/")[2]
            kept = [line for line in lines if not line.lower().startswith(("connection", "proxy-"))]
            again = "\r\n".join([f"{method} /{path} HTTP/1.1", "Connection: close", *kept])
            await _relay(reader, writer, *upstream, first=again.encode("latin-1"))


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str | None,
    port: int | None,
    first: bytes = b"",
) -> None:
    answers, requests = await asyncio.open_connection(host, port)
    requests.write(first)
    up = asyncio.create_task(_pass_on(reader, requests))
    down = asyncio.create_task(_pass_on(answers, writer))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        requests.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()


def _server_context(ca_file: Path, server_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_certificate(ca_file, server_file))
    return context


def server_certificate(ca_file: Path, server_file: Path) -> Path:
    """Write the certificates of a CA and of `localhost`, with its key; return the latter's file."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA of the tests")])
    ca = (
        _certificate(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [
        x509.DNSName("localhost"),
        x509.DNSName("store"),
        x509.IPAddress(ip_address("127.0.0.1")),
    ]
    server = (
        _certificate(name, ca_name, key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    server_file.write_bytes(
        server.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return server_file


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
