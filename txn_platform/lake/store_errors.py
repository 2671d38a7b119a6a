"""Errors of a store: messages that say what to fix, and which errors are worth a retry."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from txn_platform.errors import UserError
from txn_platform.permissions import with_roles
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_RETRIED_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
# With other statuses: a body that was damaged in transit, or a store that was busy.
_RETRIED_CODES: Final = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_EXPLAINED: Final = {
    ("404", "NoSuchBucket"): "does not exist: make it, or fix AWS_BUCKET_NAME",
    ("403", "AccessDenied"): "refused the credentials ({code} for {operation}): allow them"
    " {permission}, or fix AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile)",
    ("InvalidAccessKeyId", "SignatureDoesNotMatch"): "refused the credentials ({code} for"
    " {operation}): fix AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile)",
    ("301", "PermanentRedirect", "AuthorizationHeaderMalformed"): "is in another region: set"
    " AWS_REGION to the bucket's",
    ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"): "refused"
    " the credentials, which have expired ({code}): log in again",
    ("RequestTimeTooSkewed", "RequestExpired"): "refused the request because this machine's clock"
    " is {off} the store's: set it",
    ("411", "MissingContentLength", "501", "NotImplemented"): "answered with the error {code!r}:"
    " the store may be too old for checksums; set AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED",
    ("507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"): "is full ({code}): make"
    " room there",
    ("429", "503", "SlowDown", "ServiceUnavailable", "TooManyRequests"): "is overloaded ({code}):"
    " run it again when the store has recovered",
}
_UNEXPLAINED: Final = (
    "answered with the error {code!r} to {operation}: look at the store's log, and whether"
    " AWS_ENDPOINT_URL names it"
)
_WEB_PAGE: Final = (
    "is not answered by an S3: a web page (status {status}) came back for {operation}. Fix"
    " AWS_ENDPOINT_URL, or see to the proxy or gateway in front of the store"
)
# S3's permissions that are not named as the operation is.
_PERMISSIONS: Final = {
    "CompleteMultipartUpload": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListObjectVersions": "ListBucketVersions",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "UploadPart": "PutObject",
}
# AWS names the permission in its message, also one of KMS.
_NAMED: Final = re.compile(r"not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)")
# As object_store (of polars and deltalake) and the SDK of pyarrow describe a request.
_REQUESTS: Final = (
    re.compile(r"performing (?P<operation>[A-Z]+) https?://[^/\s]+(?P<path>\S*)"),
    re.compile(r"during (?P<operation>[A-Z][A-Za-z]+) operation"),
)
_DENIED: Final = re.compile(r"AccessDenied|ACCESS_DENIED|403 Forbidden|HTTP status code 403")
_OF_METHODS: Final = {
    "DELETE": "DeleteObject",
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "POST": "PutObject",
    "PUT": "PutObject",
}


class StoreError(UserError):
    """The store refused a request, failed, or can't be reached, also after retries.

    Attributes:
        code: of the error in S3's protocol; empty if there was no answer.
        refused: the store answered, and would refuse the same request again.
        denied: it refused because the credentials lack a permission.
    """

    def __init__(self, message: str, code: str = "", *, refused: bool = False) -> None:
        super().__init__(message, Section.STORE_REFUSES if refused else Section.STORE_SILENT)
        self.code = code
        self.refused = refused
        self.denied = code in {"403", "AccessDenied"}


def denied_permission(text: str) -> str:
    """The permission that a library's error lacks, with its roles; empty for another error.

    Args:
        text: of an error of polars, deltalake or pyarrow.
    """
    if not _DENIED.search(text):
        return ""
    if named := _NAMED.search(text):
        return with_roles(named[1])
    for request in _REQUESTS:
        if found := request.search(text):
            operation = _OF_METHODS.get(found["operation"], found["operation"])
            if "list-type=" in found.groupdict().get("path", ""):
                operation = "ListObjectsV2"
            return with_roles(_permission(operation))
    return "what they need (deploy/iam)"


def _permission(operation: str) -> str:
    return f"s3:{_PERMISSIONS.get(operation, operation)}"


def explained(
    error: Exception, bucket: str, endpoint: str, permission: str | None = None
) -> tuple[StoreError, bool]:
    """Explain an error of boto3 to a user.

    Args:
        error: raised by a request.
        bucket: its name.
        endpoint: the store's address.
        permission: that the request needs; by default the one of its operation.

    Returns:
        The error to raise, and whether the same request may succeed later.
    """
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return failed(_described(error), bucket, endpoint), _may_pass(error)
    code = str(error.response.get("Error", {}).get("Code", ""))
    details: dict[str, Any] = dict(error.response.get("ResponseMetadata", {}))
    passing = details.get("HTTPStatusCode") in _RETRIED_STATUS or code in _RETRIED_CODES
    off = (datetime.now(UTC) - store_time(details)).total_seconds()
    if "html" in details.get("HTTPHeaders", {}).get("content-type", ""):
        text = _WEB_PAGE
    else:
        text = next((text for codes, text in _EXPLAINED.items() if code in codes), _UNEXPLAINED)
    message = text.format(
        code=code,
        off=f"{abs(off):,.0f} s {'ahead of' if off > 0 else 'behind'}",
        operation=error.operation_name,
        permission=_lacking(error, permission),
        status=details.get("HTTPStatusCode"),
    )
    message = f"bucket {bucket!r} {message}{_hinted(bucket, endpoint)}"
    return StoreError(message, code, refused=not passing), passing


def _lacking(error: ClientError, permission: str | None) -> str:
    """The permission that a refused request lacks, with its roles."""
    if named := _NAMED.search(error.response.get("Error", {}).get("Message", "")):
        return with_roles(named[1])
    allowed = with_roles(permission or _permission(error.operation_name))
    if error.operation_name == "HeadObject":
        # The answer has no body, so it names nothing.
        allowed += ", and s3:ListBucket, without which S3 also refuses what is absent"
    return allowed


def failed(cause: str, bucket: str, endpoint: str) -> StoreError:
    """The error of a store that gave no usable answer."""
    return StoreError(
        f"the store of bucket {bucket!r} failed: {cause}. Look whether it runs, and whether"
        f" AWS_ENDPOINT_URL names it{_hinted(bucket, endpoint)}"
    )


def bucket_in_host(endpoint: str, bucket: str) -> str:
    """A hint if an endpoint's host begins with the bucket's name, otherwise an empty text."""
    scheme, _, place = endpoint.partition("://")
    if not place.startswith(f"{bucket}."):
        return ""
    return (
        f"the endpoint {endpoint} has the bucket {bucket!r} in its host: leave it off"
        f" (AWS_ENDPOINT_URL={scheme}://{place.removeprefix(f'{bucket}.')}), and set"
        " TXN_S3_ADDRESSING=virtual if the store wants it there"
    )


def store_time(metadata: Any) -> datetime:
    """The time of the store's clock in an answer, to the second; this machine's if it has none."""
    try:
        moment = parsedate_to_datetime(metadata["HTTPHeaders"]["date"])
    except (ValueError, TypeError, LookupError, OverflowError):
        return datetime.now(UTC)
    # -0000 means UTC (RFC 5322), but Python gives such a time no zone.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _hinted(bucket: str, endpoint: str) -> str:
    hint = bucket_in_host(endpoint, bucket)
    return f". Perhaps {hint}" if hint else ""


def _described(error: Exception) -> str:
    """boto3's description of a failure, and the setting that fixes it if there is one."""
    from botocore import exceptions as said

    if _is_untrusted(error):
        return (
            "its certificate is not of a CA that is trusted: set AWS_CA_BUNDLE to a PEM file of the"
            " CA's"
        )
    if isinstance(error, said.ProxyConnectionError):
        return f"{error}: fix HTTPS_PROXY and HTTP_PROXY, or name the store's host in NO_PROXY"
    return str(error)


def _is_untrusted(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later, after an error without an answer."""
    from botocore import exceptions as said
    from botocore.parsers import ResponseParserError

    return not _is_untrusted(error) and isinstance(
        error,
        (
            said.ConnectionError,
            said.HTTPClientError,
            said.IncompleteReadError,
            said.FlexibleChecksumError,
            ResponseParserError,
        ),
    )
