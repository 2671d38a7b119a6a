"""Access to a bucket, resolved once, in the form that each library needs.

Endpoint, region, credentials, certificates, proxy and addressing come from the settings, then from
the AWS profile, by boto3's rules. boto3, pyarrow, polars and deltalake are told all of them, so
that none reads the environment by rules of its own.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.aws_session import aws_session, botocore_session, explained_aws_errors
from txn_platform.errors import UserError
from txn_platform.http_addresses import s3_endpoint
from txn_platform.lake.base import Capability
from txn_platform.lake.bucket import Bucket, StoreLimits
from txn_platform.lake.store_errors import bucket_in_host
from txn_platform.network import proxy_for, require_certificates
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from txn_platform.network import Proxy
    from txn_platform.settings import Settings

# Seconds that polars may keep credentials; botocore renews them well before they expire.
_KEPT_SECONDS: Final = 300
# object_store (of polars and deltalake) takes certificates only together with a proxy, and without
# one it reads the environment's. A proxy that is used for no host is none.
_NO_PROXY: Final = {
    "proxy_url": "http://127.0.0.1:9",
    "proxy_excludes": "*,0.0.0.0/0,::/0",
}


class S3Access:
    """Access to one bucket.

    It can't be pickled, since it holds credentials. A frame of `scan` can, and holds none.

    Args:
        bucket: whose client has the endpoint and the region.
        credentials: botocore's, which renew themselves.
        virtual_host: whether the bucket's name goes into the host.
        ca_bundle: certificates that are trusted; None for the libraries' own.
        proxy: through which the store is asked.

    Attributes:
        credentials: what gives them to polars.
    """

    def __init__(
        self,
        bucket: Bucket,
        credentials: Any,
        *,
        virtual_host: bool,
        ca_bundle: Path | None,
        proxy: Proxy | None,
    ) -> None:
        self._bucket = bucket
        self._endpoint = urlsplit(bucket.client.meta.endpoint_url)
        self._region = bucket.client.meta.region_name
        self.credentials = CredentialProvider(credentials)
        self._virtual_host = virtual_host
        self._ca_bundle = ca_bundle
        self._proxy = proxy

    def __reduce__(self) -> Any:
        raise UserError(
            "access to a bucket can't be pickled: it holds credentials", Section.OWN_ASSET
        )

    def filesystem(self) -> Any:
        """A `pyarrow.fs.S3FileSystem`.

        Raises:
            UserError: there are no credentials any more.
        """
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        key = self.credentials.frozen()
        limits, proxy = self._bucket.limits, self._proxy
        # pyarrow-stubs do not know them all.
        options: dict[str, Any] = {"scheme": self._endpoint.scheme}
        if self._ca_bundle is not None:
            options["tls_ca_file_path"] = str(self._ca_bundle)
        if proxy is not None:
            options["proxy_options"] = {
                "scheme": proxy.scheme,
                "host": proxy.host,
                "port": proxy.port,
                "username": proxy.username or "",
                "password": proxy.password or "",
            }
        return S3FileSystem(
            access_key=key.access_key,
            secret_key=key.secret_key,
            session_token=key.token,
            region=self._region,
            endpoint_override=f"{self._endpoint.netloc}{self._endpoint.path}",
            force_virtual_addressing=self._virtual_host,
            connect_timeout=limits.connect_timeout,
            request_timeout=limits.read_timeout,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=limits.backoff.attempts),
            **options,
        )

    def scan(self, uris: list[str]) -> pl.LazyFrame:
        """The rows of Parquet objects as a lazy frame, which gets credentials when it is read.

        It can be pickled, and read by another process that has this one's settings; through a proxy
        with a password it can't be pickled.
        """
        frame = pl.scan_parquet(
            uris,
            hive_partitioning=False,
            # Names are not patterns.
            glob=False,
            storage_options=self._plain_options(),
            credential_provider=self.credentials,
        )
        if self._proxy is not None and self._proxy.username:
            from polars.io.plugins import register_io_source

            source = _SecretScan(frame)
            return register_io_source(source, schema=source.schema)
        return frame

    def probe(self, key: str) -> Iterator[Capability]:
        """Read a small Parquet object through each library that the platform reads with.

        Args:
            key: where it is put; it is removed again.

        Raises:
            StoreError: it can't be put.
        """
        table = pa.table({"probe": [1, 2, 3]})
        file = pa.BufferOutputStream()
        pq.write_table(table, file)
        place: Any = {"Bucket": self._bucket.name, "Key": key}
        content = file.getvalue().to_pybytes()
        client = self._bucket.client
        self._bucket.call(lambda: client.put_object(Body=content, **place))
        try:
            yield _read_by("pyarrow", lambda: self._read_by_pyarrow(key), table)
            yield _read_by("polars", lambda: self._read_by_polars(key), table)
        finally:
            self._bucket.erase(key)
        hint = bucket_in_host(self._endpoint.geturl(), self._bucket.name)
        if hint:
            yield Capability("endpoint", works=False, needed=False, meaning=hint)

    def _read_by_pyarrow(self, key: str) -> pa.Table:
        with self.filesystem().open_input_file(f"{self._bucket.name}/{key}") as file:
            return pq.ParquetFile(file).read()

    def _read_by_polars(self, key: str) -> pa.Table:
        return self.scan([f"s3://{self._bucket.name}/{key}"]).collect().to_arrow()

    def storage_options(self) -> dict[str, Any]:
        """The options of `object_store` with credentials; do not store them.

        Raises:
            UserError: there are no credentials any more.
        """
        key = self.credentials.frozen()
        options = self._plain_options()
        options["aws_access_key_id"] = key.access_key
        options["aws_secret_access_key"] = key.secret_key
        if key.token:
            options["aws_session_token"] = key.token
        elif "AWS_SESSION_TOKEN" in os.environ:
            # The token belongs to other keys, but deltalake would read it from the environment.
            options["aws_session_token"] = ""  # nosec B105 # none
        return options

    def _plain_options(self) -> dict[str, Any]:
        """The options of `object_store` without credentials; they may have a proxy's password."""
        limits, endpoint = self._bucket.limits, self._endpoint
        # If the bucket is in the host, object_store needs the whole host.
        bucket = f"{self._bucket.name}." if self._virtual_host else ""
        options: dict[str, Any] = {
            "aws_region": self._region,
            "aws_endpoint_url": f"{endpoint.scheme}://{bucket}{endpoint.netloc}{endpoint.path}",
            "aws_virtual_hosted_style_request": str(self._virtual_host).lower(),
            "aws_allow_http": "true",
            "aws_skip_signature": "false",
            "max_retries": limits.backoff.attempts - 1,
            "retry_init_backoff_ms": round(limits.backoff.first_pause * 1000),
            "retry_max_backoff_ms": round(limits.backoff.longest_pause * 1000),
            "connect_timeout": f"{limits.connect_timeout * 1000:.0f}ms",
            "timeout": f"{limits.read_timeout * 1000:.0f}ms",
        }
        options |= {"proxy_url": self._proxy.url} if self._proxy else _NO_PROXY
        if self._ca_bundle is not None:
            options["proxy_ca_certificate"] = self._ca_bundle.read_text("utf-8", "replace")
        return options


class CredentialProvider:
    """Credentials for polars, requested when a frame is read.

    A pickle has no credentials: the process that loads it uses those of its own settings.
    """

    def __init__(self, credentials: Any = None, identity: str | None = None) -> None:
        """Args: credentials: of botocore; identity: of this provider, kept by a pickle."""
        self._credentials = credentials
        # polars caches connections by the pickle of the provider.
        self._identity = identity or uuid.uuid4().hex

    def __reduce__(self) -> tuple[type[Self], tuple[None, str]]:
        return type(self), (None, self._identity)

    def __call__(self) -> tuple[dict[str, str], int]:
        """The credentials for polars, and their expiry in seconds since 1970."""
        key = self.frozen()
        found = {"aws_access_key_id": key.access_key, "aws_secret_access_key": key.secret_key}
        if key.token:
            found["aws_session_token"] = key.token
        return found, int(time.time()) + _KEPT_SECONDS

    def frozen(self) -> Any:
        """The current credentials, as botocore has them.

        Raises:
            UserError: there are none, or they can't be renewed.
        """
        if self._credentials is None:
            from txn_platform.settings import load_settings

            settings = load_settings()
            with explained_aws_errors():
                session = aws_session(settings, botocore_session(settings))
                self._credentials = _credentials(session, settings.bucket or "")
        with explained_aws_errors():
            return self._credentials.get_frozen_credentials()


def _read_by(library: str, read: Callable[[], pa.Table], table: pa.Table) -> Capability:
    name = f"reading by {library}"
    try:
        whole = bool(read().equals(table))
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        causes = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = causes[0] if len(causes) < 2 else f"{causes[0]} ... {causes[-1]}"
        return Capability(
            name,
            works=False,
            needed=True,
            meaning=f"{library} can't read what boto3 has written: {reason}. Look at"
            " AWS_ENDPOINT_URL, TXN_S3_ADDRESSING, AWS_CA_BUNDLE and HTTPS_PROXY",
        )
    return Capability(
        name,
        works=whole,
        needed=True,
        meaning=f"{library} reads what is written"
        if whole
        else f"{library} reads something else than what was written: the endpoint names another"
        " store for it",
    )


class _SecretScan:
    """A frame whose plan holds a secret, as a source for a plan that holds none."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def __reduce__(self) -> Any:
        raise UserError(
            "a lazy frame that is read through a proxy with a password can't be pickled: store its"
            ' rows with io_manager_key="lake"',
            Section.OWN_ASSET,
        )

    def schema(self) -> pl.Schema:
        return self._frame.collect_schema()

    def __call__(
        self,
        columns: list[str] | None,
        predicate: pl.Expr | None,
        rows: int | None,
        batch_rows: int | None,
    ) -> Iterator[pl.DataFrame]:
        wanted = self._frame if predicate is None else self._frame.filter(predicate)
        wanted = wanted if columns is None else wanted.select(columns)
        wanted = wanted if rows is None else wanted.head(rows)
        yield from wanted.collect_batches(chunk_size=batch_rows, maintain_order=True)


def open_bucket(settings: Settings, name: str, limits: StoreLimits) -> tuple[Bucket, S3Access]:
    """A bucket of the store that the settings name, and the same access for other libraries.

    Raises:
        UserError: there are no credentials for it, or a setting or the AWS profile is wrong.
    """
    from botocore.config import Config

    with explained_aws_errors():
        core = botocore_session(settings)
        session = aws_session(settings, core)
        credentials = _credentials(session, name)
        configured = settings.endpoint_url or _endpoint_of_profile(core)
        of_profile = core.get_scoped_config().get("s3")
        ca_bundle = settings.ca_bundle or _ca_bundle_of_profile(core)
    if configured is not None:
        _require_no_bucket(configured, name)
    if configured is not None and configured.startswith("http:"):
        ca_bundle = None
    if ca_bundle is not None:
        require_certificates(ca_bundle)
    addressing: Any = (
        settings.s3_addressing
        or (of_profile if isinstance(of_profile, dict) else {}).get("addressing_style")
        # Stores without a domain have no host names for buckets.
        or ("path" if configured else "auto")
    )

    def client(proxies: dict[str, str]) -> S3Client:
        with explained_aws_errors():
            return session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                endpoint_url=configured,
                # Always explicit: an empty AWS_CA_BUNDLE would turn verification off.
                verify=str(ca_bundle) if ca_bundle else True,
                config=Config(
                    connect_timeout=limits.connect_timeout,
                    read_timeout=limits.read_timeout,
                    # `Bucket` retries, and logs each retry.
                    retries={"total_max_attempts": 1},
                    s3={"addressing_style": addressing},
                    proxies=proxies,
                    request_checksum_calculation=settings.request_checksums,
                    response_checksum_validation=settings.response_checksums,
                ),
            )

    direct = client({})
    endpoint = direct.meta.endpoint_url
    proxy = proxy_for(endpoint)
    bucket = Bucket(
        client({urlsplit(endpoint).scheme: proxy.url}) if proxy else direct, name, limits
    )
    return bucket, S3Access(
        bucket,
        credentials,
        virtual_host=addressing == "virtual",
        ca_bundle=ca_bundle,
        proxy=proxy,
    )


def _credentials(session: Any, bucket: str) -> Any:
    credentials = session.get_credentials()
    if credentials is None:
        raise UserError(
            f"there are no credentials for bucket {bucket!r}: set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI",
            Section.STORE_REFUSES,
        )
    return credentials


def _endpoint_of_profile(core: Any) -> str | None:
    """The endpoint for S3 that the AWS profile has, also in its `services` section.

    Raises:
        UserError: it is no address, or holds a password.
    """
    from botocore.configprovider import ConfiguredEndpointProvider

    if core.get_config_variable("ignore_configured_endpoint_urls") is True:
        return None
    configured = ConfiguredEndpointProvider(
        full_config=core.full_config,
        scoped_config=core.get_scoped_config(),
        client_name="s3",
        # The settings have already read the environment.
        environ={},
    ).provide()
    if configured is None:
        return None
    try:
        return s3_endpoint(configured)
    except ValueError as error:
        raise UserError(f"the endpoint_url of the AWS profile {error}", Section.SETTINGS) from None


def _ca_bundle_of_profile(core: Any) -> Path | None:
    bundle = core.get_scoped_config().get("ca_bundle")
    return Path(bundle).expanduser() if bundle else None


def _require_no_bucket(endpoint: str, bucket: str) -> None:
    """Check that an endpoint names the store alone.

    Raises:
        UserError: the bucket's name stands at its end.
    """
    head, _, last = endpoint.rpartition("/")
    hint = bucket_in_host(endpoint, bucket)
    if last == bucket and "://" in head and urlsplit(head).hostname:
        raise UserError(
            f"the endpoint {endpoint} ends with the bucket {bucket!r}: leave it off"
            f" (AWS_ENDPOINT_URL={head}), it is named by AWS_BUCKET_NAME",
            Section.SETTINGS,
        )
    if hint and urlsplit(endpoint).netloc.removeprefix(f"{bucket}.").startswith(("s3.", "s3-")):
        raise UserError(hint, Section.SETTINGS)
