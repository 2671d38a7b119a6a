"""Keys with which the parts of one SeaweedFS know each other, made again at each of its starts.

Its S3 checks the keys of its users. The servers behind it (master, volumes, filer) listen on
127.0.0.1 as well. Without keys of their own, they serve every user of the machine.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from txn_platform.private_files import write_private

if TYPE_CHECKING:
    from pathlib import Path

_CERTIFICATE: Final = "tls.pem"
_SERVERS: Final = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT")
_SIGNING: Final = ("JWT_SIGNING", "JWT_SIGNING_READ", "JWT_FILER_SIGNING", "JWT_FILER_SIGNING_READ")
# A token is for one chunk, and is used at once. On a busy machine "at once" can take minutes.
_SIGNED_SECONDS: Final = "3600"
# Longer than a server runs: the certificate is not renewed while it does.
_VALID: Final = timedelta(days=3650)


def inner_keys(directory: Path) -> dict[str, str]:
    """Make new keys for a SeaweedFS: one for each kind of token, and one certificate for all.

    gRPC accepts, and trusts, the holder of this certificate alone (mutual TLS). HTTP of the volume
    server reads and writes a chunk for a signed token alone.

    Args:
        directory: in which SeaweedFS will run, for its owner alone. It gets a file with the
            certificate and its private key, as PEM.

    Returns:
        Variables of the environment for SeaweedFS, as `weed scaffold -config=security` names them.

    Raises:
        OSError: the file cannot be written.
    """
    write_private(directory / _CERTIFICATE, _certificate())
    # A relative path, because SeaweedFS splits some at commas.
    variables = {"WEED_GRPC_CA": _CERTIFICATE}
    for server in _SERVERS:
        variables[f"WEED_GRPC_{server}_CERT"] = _CERTIFICATE
        variables[f"WEED_GRPC_{server}_KEY"] = _CERTIFICATE
    for kind in _SIGNING:
        variables[f"WEED_{kind}_KEY"] = secrets.token_hex(32)
        variables[f"WEED_{kind}_EXPIRES_AFTER_SECONDS"] = _SIGNED_SECONDS
    return variables


def _certificate() -> str:
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "seaweedfs")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A clock that is set back a little does no harm.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (certificate.public_bytes(Encoding.PEM) + private).decode("ascii")
