"""A proxy in front of an S3 that enforces an IAM policy as AWS does, and records what it needed.

The permissions of each request are those of AWS's table "Required permissions for Amazon S3 API
operations". A test chooses the policy and checks the result.
"""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, override
from urllib.parse import parse_qs, unquote, urlsplit

from txn_platform_tests.support.faulty_store import FaultyStore, described

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

_OF_BUCKET: Final = {
    "uploads": "s3:ListBucketMultipartUploads",
    "versions": "s3:ListBucketVersions",
    "versioning": "s3:GetBucketVersioning",
    "encryption": "s3:GetEncryptionConfiguration",
}
_OF_OBJECT: Final = {
    "GET": "s3:GetObject",
    "HEAD": "s3:GetObject",
    "PUT": "s3:PutObject",
    "POST": "s3:PutObject",
    "DELETE": "s3:DeleteObject",
}
# Headers of an answer that are left out without the permission.
_OF_LOCKS: Final = {
    "x-amz-object-lock-retain-until": "s3:GetObjectRetention",
    "x-amz-object-lock-legal-hold": "s3:GetObjectLegalHold",
}
_KMS_KEY: Final = "x-amz-server-side-encryption-aws-kms-key-id"


@dataclass(frozen=True, order=True)
class Need:
    """A permission that a request needs.

    Attributes:
        permission: as in a policy, such as `s3:GetObject`.
        resource: the ARN of the bucket or the object.
    """

    permission: str
    resource: str


class Policy:
    """A policy document that allows, without conditions.

    Args:
        document: as JSON has it.

    Attributes:
        statements: its statements.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.statements = [Statement(each) for each in document["Statement"]]

    def allows(self, need: Need) -> bool:
        """Whether a statement allows it."""
        return any(each.allows(need) for each in self.statements)


class Statement:
    """A statement of a policy; see `Policy`."""

    def __init__(self, content: dict[str, Any]) -> None:
        assert set(content) == {"Sid", "Effect", "Action", "Resource"}
        assert content["Effect"] == "Allow"
        self.permissions = frozenset(content["Action"])
        self.resources = frozenset(content["Resource"])

    def allows(self, need: Need) -> bool:
        """Whether it allows it."""
        return need.permission in self.permissions and any(
            matches(each, need.resource) for each in self.resources
        )


def matches(pattern: str, resource: str) -> bool:
    """Whether a resource of a statement, with any number of `*`, covers the ARN of another."""
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), resource))


@dataclass
class Credentials:
    """Credentials, by what they may do and did.

    Attributes:
        policy: theirs; None allows all.
        needed: by the requests that have arrived.
    """

    policy: Policy | None = None
    needed: set[Need] = field(default_factory=set["Need"])


class IamStore(FaultyStore):
    """A proxy on 127.0.0.1, in front of an S3 or a Secrets Manager; a context manager.

    Args:
        upstream: its address.
        credentials: of all requests.
    """

    def __init__(self, upstream: str, credentials: Credentials) -> None:
        super().__init__(upstream)
        self._credentials = credentials

    @override
    def refusal(self, upstream: str, request: BaseHTTPRequestHandler, body: bytes) -> bytes:
        needs = _needs(request, body)
        if needs[0].permission.startswith("s3:GetObject"):
            found = described(upstream, request)
            if found.status == http.client.NOT_FOUND:
                # Without it S3 does not say that there is no object.
                needs.append(Need("s3:ListBucket", needs[0].resource.partition("/")[0]))
            if request.command == "GET" and found.headers[_KMS_KEY]:
                needs.append(Need("kms:Decrypt", found.headers[_KMS_KEY]))
        self._credentials.needed.update(needs)
        if "versionId" in request.path and request.command == "HEAD":
            shown = (Need(each, needs[0].resource) for each in _OF_LOCKS.values())
            self._credentials.needed.update(shown)
        policy = self._credentials.policy
        lacking = [need for need in needs if policy and not policy.allows(need)]
        if lacking:
            return _denied(lacking[-1], head=request.command == "HEAD")
        return super().refusal(upstream, request, body)

    @override
    def hides(self) -> frozenset[str]:
        policy = self._credentials.policy
        if policy is None:
            return frozenset()
        allowed = frozenset[str]().union(*(each.permissions for each in policy.statements))
        return frozenset(name for name, each in _OF_LOCKS.items() if each not in allowed)


def _needs(request: BaseHTTPRequestHandler, body: bytes) -> list[Need]:
    """The permissions of a request to a bucket in the path, at least one."""
    parts = urlsplit(request.path)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    arn, method = f"arn:aws:s3:::{bucket}", request.command
    if target := request.headers["X-Amz-Target"]:
        return [Need(target.replace(".", ":"), json.loads(body)["SecretId"])]
    if key:
        version = "Version" if "versionId" in query else ""
        permission = _OF_OBJECT[method] + (version if method != "PUT" else "")
        if method == "DELETE" and "uploadId" in query:
            permission = "s3:AbortMultipartUpload"
        needs = [Need(permission, f"{arn}/{key}")]
        if kms_key := request.headers[_KMS_KEY]:
            needs.append(Need("kms:GenerateDataKey", kms_key))
        return needs
    if method == "POST" and "delete" in query:
        keys = re.findall(rb"<Key>([^<]*)</Key>", body)
        return [Need("s3:DeleteObject", f"{arn}/{each.decode()}") for each in keys]
    named = [permission for name, permission in _OF_BUCKET.items() if name in query]
    return [Need(*named, arn)] if named else [Need("s3:ListBucket", arn)]


def _denied(need: Need, *, head: bool) -> bytes:
    user = "arn:aws:iam::111122223333:user/test"
    message = (
        f"User: {user} is not authorized to perform: {need.permission} on resource:"
        f" &quot;{need.resource}&quot; because no identity-based policy allows the"
        f" {need.permission} action"
    )
    text = f"<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>"
    body = b"" if head else text.encode()
    return (
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
