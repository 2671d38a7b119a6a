"""The policies of `deploy/iam`: each role can do its work, with nothing to spare.

Two servers enforce them: a proxy that knows AWS's table of permissions, and SeaweedFS.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import dagster as dg
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from click.testing import CliRunner
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import make_server

from txn_platform import read_transactions
from txn_platform.cli import main
from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
from txn_platform.defs.resources import GeneratorResource
from txn_platform.errors import UserError
from txn_platform.lake.delta import open_delta
from txn_platform.lake.layout import object_key
from txn_platform.local.processes import ManagedProcess, free_ports
from txn_platform.local.seaweedfs import REGION, available
from txn_platform.permissions import ROLES
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.support.iam_store import Credentials, IamStore, Policy, matches
from txn_platform_tests.support.run_resources import run_resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from txn_platform_tests.conftest import S3Endpoint
    from txn_platform_tests.support.hourly_source import HourlySource

_IAM: Final = Path(__file__).parents[1] / "deploy/iam"
_PAGE: Final = Path(__file__).parents[1] / "docs/bucket.md"
_ROLES: Final = ("reader", "platform", "upkeep")
_KMS_KEY: Final = "arn:aws:kms:eu-central-1:111122223333:key/my-key"
_SECRETS: Final = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:"
_SECRETS_OF_TEST: Final = f"arn:aws:secretsmanager:{REGION}:123456789012:secret:"
_HOURS: Final = ["2026-11-01-00:00", "2026-11-01-01:00"]
_FIRST: Final = Window.of_partition(_HOURS[0])
_CARD_KEYS: Final = (secrets.token_hex(32), secrets.token_hex(32))


def _document(role: str) -> dict[str, Any]:
    return json.loads((_IAM / f"{role}.json").read_text("utf-8"))


def _permissions(role: str) -> list[str]:
    """The permissions of a role, each once."""
    named = {each for part in _document(role)["Statement"] for each in part["Action"]}
    return sorted(named)


def _policy(role: str, bucket: str, without: str | None = None) -> dict[str, Any]:
    """The policy of a role for a bucket, without one of its permissions."""
    text = json.dumps(_document(role)).replace(":::my-bucket", f":::{bucket}")
    document = json.loads(text.replace(_SECRETS, _SECRETS_OF_TEST))
    for statement in document["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each != without]
    document["Statement"] = [each for each in document["Statement"] if each["Action"]]
    return document


# The work of the roles. Each returns what a user sees.


def _read(client: S3Client, bucket: str) -> str:
    """Read rows and descriptors as a user of the published data."""
    del client
    hours = ["2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z", "2026-11-01T02:00:00Z"]
    try:
        assert read_transactions(*hours[:2]).collect().height
        assert read_transactions(hours[0], hours[2], allow_missing=True).collect().height
        delta = open_delta(load_settings())
        assert delta is not None
        assert delta.exists()
        client = boto3.Session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
        (last, *_) = client.list_objects_v2(Bucket=bucket, Prefix="delta/event_date")["Contents"]
        for key in ("lake/datapackage.json", "lake/contract.odcs.yaml", last.get("Key", "")):
            client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except UserError as error:
        return str(error)
    return ""


def _run(client: S3Client, bucket: str) -> str:
    _leave_orphan(client, bucket)
    result = dg.materialize(
        [raw_transactions, validation, s3_parquet_transactions],
        partition_key=_HOURS[0],
        resources=run_resources(GeneratorResource()),
        raise_on_error=False,
    )
    failures = [
        event.step_failure_data.user_failure_data.description or ""
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    ]
    assert result.success == (not failures)
    return "\n".join(failures)


def _keep(client: S3Client, bucket: str, *, hold: bool = False) -> str:
    """Do the upkeep, with a raw object that is old and may be under a legal hold."""
    # Without a key of its own it asks for the bucket's encryption.
    output = _said("doctor", TXN_RAW_SSE=None) + _said("rotate-card-key", "--yes")
    try:
        delta = open_delta(load_settings())
        assert delta is not None
        delta.optimize(timedelta())
    except UserError as error:
        output += str(error)
    old = f"lake/{object_key('raw_transactions', Window.of_partition(_HOURS[1]))}"
    client.put_object(Bucket=bucket, Key=old, Body=b"old")
    if hold:
        client.put_object_legal_hold(Bucket=bucket, Key=old, LegalHold={"Status": "ON"})
    return output + _said("expire", "--older-than", "1d", "--yes")


def _said(*command: str, **environment: str | None) -> str:
    result = CliRunner().invoke(main, command, env=environment)
    return f"{result.output}exit code {result.exit_code} of {command[0]}\n"


# Before the work. The Delta table has files to delete after the second.
_RUNS: Final = {"reader": 1, "platform": 0, "upkeep": 2}
_WORK: Final = {"reader": _read, "platform": _run, "upkeep": _keep}


def _leave_orphan(client: S3Client, bucket: str) -> None:
    """Leave an upload that a killed run has begun."""
    key = f"lake/{object_key('raw_transactions', _FIRST)}"
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    markers = load_settings().home / "uploads"
    markers.mkdir(parents=True, exist_ok=True)
    (markers / "killed.parquet.upload").write_text(f"{json.dumps([bucket, key])}\n{upload}\n")


def _named(output: str, role: str, permission: str) -> bool:
    """Whether a line names a permission, and that the role has it."""
    return any(
        permission in line and re.search(rf"deploy/iam: roles? [a-z, ]*\b{role}\b", line)
        for line in output.splitlines()
    )


def _settings(patch: pytest.MonkeyPatch, url: str, keys: tuple[str, str], bucket: str) -> None:
    """Set a lake and a Delta table in a bucket, with a home of their own."""
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "AWS_REGION": REGION,
        "AWS_BUCKET_NAME": bucket,
        "DELTA_LAKE_S3_PATH": f"s3://{bucket}/delta",
        "TXN_CARD_KEY": _CARD_KEYS[0],
        "TXN_HOME": str(Path(f"home-{secrets.token_hex(4)}").absolute()),
        "TXN_FIRST_HOUR": _HOURS[0],
    }.items():
        patch.setenv(name, value)


def _publish(source: HourlySource, client: S3Client, bucket: str, times: int) -> None:
    """Publish the first hour so many times, each time with fewer rows."""
    for _ in range(times):
        assert _run(client, bucket) == ""
        source.rows_in(_FIRST).pop()
    source.hours.clear()


def test_the_roles_of_the_messages_are_those_of_the_policies() -> None:
    of_policies = {
        permission: tuple(role for role in _ROLES if permission in _permissions(role))
        for role in _ROLES
        for permission in _permissions(role)
    }
    assert of_policies == ROLES
    assert sorted(path.stem for path in _IAM.glob("*.json")) == sorted(_ROLES)


# As AWS enforces them.


@dataclass(frozen=True)
class _Aws:
    """A bucket that keeps versions, and secrets, behind proxies that know AWS's permissions.

    Attributes:
        url: of the S3.
        secrets: the address of the secrets behind their proxy.
        client: of the S3 without the proxy, which may do all.
        bucket: its name.
        credentials: of the platform.
    """

    url: str
    secrets: str
    client: S3Client
    bucket: str
    credentials: Credentials

    def work(self, role: str) -> str:
        """Do the work of a role."""
        if role == "upkeep":
            return _keep(self.client, self.bucket, hold=True)
        return _WORK[role](self.client, self.bucket)

    def secret(self) -> str:
        """Keep a new card key as a secret; returns the reference to it."""
        session = boto3.Session("key", "secret", region_name=REGION)
        made = session.client("secretsmanager", endpoint_url=self.secrets).create_secret(
            Name=f"card-key-{secrets.token_hex(4)}", SecretString=secrets.token_hex(32)
        )
        return f"aws-sm://{made['ARN']}"


@pytest.fixture(scope="module")
def secrets_manager() -> Iterator[str]:
    """The address of a served Secrets Manager."""
    server = make_server("127.0.0.1", 0, create_backend_app("secretsmanager"), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def aws(
    s3_servers: Callable[[str], S3Endpoint], secrets_manager: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[_Aws]:
    """It is set in the environment, with a KMS key and a card key that is a secret."""
    endpoint = s3_servers("moto")
    client, bucket = endpoint.client(), f"test-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    credentials = Credentials()
    with (
        IamStore(endpoint.url, credentials) as store,
        IamStore(secrets_manager, credentials) as asked,
    ):
        _settings(monkeypatch, store.url, ("key", "secret"), bucket)
        monkeypatch.setenv("TXN_RAW_SSE", _KMS_KEY)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", asked.url)
        served = _Aws(store.url, secrets_manager, client, bucket, credentials)
        monkeypatch.setenv("TXN_CARD_KEY", served.secret())
        yield served


def _prepare(role: str, source: HourlySource, aws: _Aws, patch: pytest.MonkeyPatch) -> None:
    """Bring the bucket into the state in which a role finds it, and give it its policy."""
    _publish(source, aws.client, aws.bucket, _RUNS[role])
    if role == "upkeep":
        patch.setenv("TXN_CARD_KEY_PREVIOUS", os.environ["TXN_CARD_KEY"])
        patch.setenv("TXN_CARD_KEY", aws.secret())
        locked = f"lake/{object_key('quarantined_transactions', _FIRST)}"
        until = datetime.now(UTC) + timedelta(days=3)
        aws.client.put_object_retention(
            Bucket=aws.bucket,
            Key=locked,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
        )
    aws.credentials.needed.clear()


@pytest.mark.parametrize("role", _ROLES)
def test_a_role_can_do_its_work_and_needs_each_part_of_its_policy(
    role: str,
    source: HourlySource,
    aws: _Aws,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _prepare(role, source, aws, monkeypatch)
    caplog.clear()
    policy = aws.credentials.policy = Policy(_policy(role, aws.bucket))
    output = aws.work(role)
    if role == "platform":
        _keep_compute_log(aws.url, aws.bucket)
    said = output + caplog.text
    assert "deploy/iam" not in said, said
    if role == "upkeep":
        codes = re.findall(r"exit code (\d) of (\S+)", output)
        # A lock is no lack of a permission.
        assert codes == [("0", "doctor"), ("0", "rotate-card-key"), ("1", "expire")], output
        assert "it is locked until" in output
        assert "it is under a legal hold" in output
    else:
        assert output == ""
    for statement in policy.statements:
        of_statement = [need for need in aws.credentials.needed if statement.allows(need)]
        assert {need.permission for need in of_statement} == statement.permissions, statement
        for resource in statement.resources:
            assert any(matches(resource, need.resource) for need in of_statement), resource


def _keep_compute_log(url: str, bucket: str) -> None:
    """Keep what a run prints, as `deploy/dagster.yaml` does."""
    from dagster._core.storage.compute_log_manager import ComputeIOType
    from dagster_aws.s3 import S3ComputeLogManager

    manager = S3ComputeLogManager(bucket, "local", endpoint_url=url, prefix="dagster-compute-logs")
    key = ["run", "compute_logs", "step"]
    with manager.capture_logs(key):
        print("printed")  # noqa: T201 - what is kept
    manager.download_from_cloud_storage(key, ComputeIOType.STDOUT)


@pytest.mark.long
@pytest.mark.parametrize(
    "lacking", [(role, each) for role in _ROLES for each in _permissions(role)], ids=":".join
)
def test_a_permission_that_lacks_on_aws_is_named(
    lacking: tuple[str, str],
    source: HourlySource,
    aws: _Aws,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    role, permission = lacking
    _prepare(role, source, aws, monkeypatch)
    caplog.clear()
    aws.credentials.policy = Policy(_policy(role, aws.bucket, without=permission))
    output = aws.work(role)
    assert _named(output + caplog.text, role, permission), output + caplog.text


# As SeaweedFS enforces them.


@dataclass(frozen=True)
class _Identities:
    """A SeaweedFS in which each identity has a bucket of its name, and a policy for it."""

    url: str

    def client(self, name: str) -> S3Client:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=name,
            aws_secret_access_key=f"secret-of-{name}",
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=10),
        )


# It knows nothing of KMS, of secrets and of object lock. It takes PutObject for a permission to
# abort, and answers any request for the encryption with an error of its own.
_NOT_OF_SEAWEEDFS: Final = {
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "s3:AbortMultipartUpload",
    "s3:GetEncryptionConfiguration",
    "s3:GetObjectLegalHold",
    "s3:GetObjectRetention",
    "s3:GetObjectVersion",
    "secretsmanager:GetSecretValue",
}
_ADMIN: Final = "admin"


def _name(role: str, permission: str | None) -> str:
    """The name of an identity, and of its bucket."""
    return f"{role}-{(permission or 's3:whole').partition(':')[2]}".lower()


@contextmanager
def _seaweedfs(directory: Path, policies: dict[str, dict[str, Any]]) -> Iterator[_Identities]:
    def identity(name: str, **rights: list[str]) -> dict[str, Any]:
        keys = {"accessKey": name, "secretKey": f"secret-of-{name}"}
        return {"name": name, "credentials": [keys], "actions": [], **rights}

    configuration = {
        "identities": [
            identity(_ADMIN, actions=["Admin"]),
            *(identity(name, policyNames=[name]) for name in policies),
        ],
        "policies": [
            {"name": name, "content": json.dumps(document)} for name, document in policies.items()
        ],
    }
    directory.mkdir()
    path = directory / "identities.json"
    path.write_text(json.dumps(configuration))
    servers = ("s3", "master", "volume", "filer", "admin")
    ports = dict(zip(servers, free_ports(len(servers)), strict=True))
    options = [
        "-dir=.",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{server}.port={port}" for server, port in ports.items()),
        f"-s3.config={path}",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-webdav=false",
        "-admin.ui=false",
        "-volume.max=2000",
    ]
    server = ManagedProcess(
        "SeaweedFS",
        [str(Path(sys.executable).with_name("weed")), f"-logdir={directory}", "mini", *options],
        log=directory / "seaweedfs.log",
        environment={"HOME": str(directory), "GOMEMLIMIT": "384MiB"},
        directory=directory,
    )
    identities = _Identities(f"http://127.0.0.1:{ports['s3']}")
    with server:
        server.wait_until(partial(_makes_buckets, identities.client(_ADMIN), policies), timeout=60)
        yield identities


def _makes_buckets(admin: S3Client, names: dict[str, Any]) -> bool:
    """Make the buckets, which keep versions, as soon as the server can."""
    try:
        made = {each.get("Name") for each in admin.list_buckets()["Buckets"]}
        for name in names:
            if name not in made:
                admin.create_bucket(Bucket=name)
            admin.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            admin.put_object(Bucket=name, Key="ready", Body=b"")
            admin.delete_object(Bucket=name, Key="ready")
    except (BotoCoreError, ClientError):
        return False
    return True


@pytest.mark.skipif(not available(), reason="SeaweedFS has no wheel for this machine")
# The probes of `txn doctor` take SeaweedFS ten seconds.
@pytest.mark.parametrize("role", [*_ROLES[:2], pytest.param("upkeep", marks=pytest.mark.long)])
def test_a_role_works_on_seaweedfs_and_a_permission_that_lacks_is_named(
    role: str,
    source: HourlySource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    cases = [None, *(each for each in _permissions(role) if each not in _NOT_OF_SEAWEEDFS)]
    # A role that only reads has one bucket, so that it is filled once.
    buckets = {case: _name(role, None if role == "reader" else case) for case in cases}
    policies = {_name(role, case): _policy(role, buckets[case], case) for case in cases}
    with _seaweedfs(tmp_path / "seaweedfs", policies) as identities:
        admin = identities.client(_ADMIN)
        for case in cases:
            name, bucket = _name(role, case), buckets[case]
            if case is None:
                with monkeypatch.context() as patch:
                    _settings(patch, identities.url, (_ADMIN, f"secret-of-{_ADMIN}"), bucket)
                    _publish(source, admin, bucket, _RUNS[role])
            _settings(monkeypatch, identities.url, (name, f"secret-of-{name}"), bucket)
            if role == "upkeep":
                monkeypatch.setenv("TXN_CARD_KEY", _CARD_KEYS[1])
                monkeypatch.setenv("TXN_CARD_KEY_PREVIOUS", _CARD_KEYS[0])
            caplog.clear()
            output = _WORK[role](admin, bucket) + caplog.text
            if case is None:
                assert "deploy/iam" not in output, output
                codes = re.findall(r"exit code (\d) of (\S+)", output)
                assert [code for code, _ in codes] == ["0"] * len(codes), output
            else:
                assert _named(output, role, case), output
