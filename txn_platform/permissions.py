"""The permissions on AWS, and the roles of `deploy/iam` that have them, for messages.

Which request needs which permission is in the modules that make the requests.
"""

from __future__ import annotations

from typing import Final

_FOR_ALL: Final = ("reader", "platform", "upkeep")
_FOR_WRITERS: Final = ("platform", "upkeep")
_FOR_UPKEEP: Final = ("upkeep",)
ROLES: Final = {
    "kms:Decrypt": _FOR_WRITERS,
    "kms:GenerateDataKey": _FOR_WRITERS,
    "s3:AbortMultipartUpload": _FOR_WRITERS,
    "s3:DeleteObject": _FOR_UPKEEP,
    "s3:DeleteObjectVersion": _FOR_UPKEEP,
    "s3:GetBucketVersioning": _FOR_UPKEEP,
    "s3:GetEncryptionConfiguration": _FOR_UPKEEP,
    "s3:GetObject": _FOR_ALL,
    "s3:GetObjectLegalHold": _FOR_UPKEEP,
    "s3:GetObjectRetention": _FOR_UPKEEP,
    "s3:GetObjectVersion": _FOR_UPKEEP,
    "s3:ListBucket": _FOR_ALL,
    "s3:ListBucketMultipartUploads": _FOR_WRITERS,
    "s3:ListBucketVersions": _FOR_UPKEEP,
    "s3:PutObject": _FOR_WRITERS,
    "secretsmanager:GetSecretValue": _FOR_WRITERS,
}
"""The roles of `deploy/iam` whose policies have a permission."""


def with_roles(permission: str) -> str:
    """A permission, and the roles of `deploy/iam` that have it."""
    roles = ROLES.get(permission, ())
    if not roles:
        return permission
    named = " and ".join(filter(None, (", ".join(roles[:-1]), roles[-1])))
    return f"{permission} (deploy/iam: role{'s' * (len(roles) > 1)} {named})"
