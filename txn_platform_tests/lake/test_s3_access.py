"""Every library reaches a store by the same rules: endpoint, keys, certificates, proxy."""

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from txn_platform.backoff import Backoff
from txn_platform.doctor import examine
from txn_platform.errors import UserError
from txn_platform.lake.base import LakeFile
from txn_platform.lake.bucket import StoreLimits
from txn_platform.lake.delta import open_delta
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding
from txn_platform.lake.s3 import S3Lake
from txn_platform.lake.s3_access import CredentialProvider, S3Access, open_bucket
from txn_platform.network import proxy_for
from txn_platform.settings import load_settings
from txn_platform.source.client import Source
from txn_platform.source.generator import GENERATOR
from txn_platform.source.transport import Limits, source_backoff
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.support.served_tls import ForwardProxy, TlsFront

_KEY = "asset/part-0.parquet"
_SECRETS = ("an-access-key-id", "a-secret/access+key", "a-session-token", "p:ss")
# Names of no server: only a proxy resolves them.
_STORE = "store"


@pytest.fixture(scope="module")
def moto(s3_servers: Callable[[str], S3Endpoint]) -> S3Endpoint:
    return s3_servers("moto")


@pytest.fixture(scope="module")
def front(moto: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsFront]:
    """Moto behind TLS, with certificates of an unknown CA."""
    with TlsFront(moto.url, tmp_path_factory.mktemp("front")) as front:
        yield front


@pytest.fixture
def bare(moto: S3Endpoint, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names a bucket and nothing else; no machine's proxy is in it."""
    monkeypatch.setenv("AWS_BUCKET_NAME", moto.bucket)
    monkeypatch.setenv("TXN_LAKE_PREFIX", s3_prefix)
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", f"s3://{moto.bucket}/{s3_prefix}-delta")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def _keys(patch: pytest.MonkeyPatch, *, token: bool = False) -> None:
    patch.setenv("AWS_ACCESS_KEY_ID", _SECRETS[0])
    patch.setenv("AWS_SECRET_ACCESS_KEY", _SECRETS[1])
    if token:
        patch.setenv("AWS_SESSION_TOKEN", _SECRETS[2])


def _profile(patch: pytest.MonkeyPatch, text: str) -> None:
    Path("aws-config").write_text(text)
    patch.setenv("AWS_CONFIG_FILE", str(Path("aws-config").absolute()))
    patch.setenv("AWS_PROFILE", "shop")


def _publish(lake: S3Lake) -> None:
    table = pl.DataFrame({"a": [1, 2, 3]}).to_arrow()
    with lake.stage(table.schema, Encoding(compression="zstd")) as writer:
        writer.write(table.to_batches()[0])
        lake.publish(writer.finish(), _KEY)


def _lake() -> S3Lake:
    lake = open_lake(load_settings())
    assert isinstance(lake, S3Lake)
    return lake


def _use_every_library() -> None:
    """Write with boto3 and deltalake, read with boto3, pyarrow, polars and deltalake."""
    _publish(_lake())
    # Another one: what the first has published, it reads from its own file.
    lake = _lake()
    lake.copy(_KEY, Path("copied.parquet"))
    assert pl.read_parquet("copied.parquet")["a"].to_list() == [1, 2, 3]
    assert lake.open(_KEY).read()["a"].to_pylist() == [1, 2, 3]
    frame = lake.scan([_KEY])
    assert frame.filter(pl.col("a") > 1).select(pl.len()).collect().item() == 2
    assert frame.collect()["a"].to_list() == [1, 2, 3]
    delta = open_delta(load_settings())
    assert delta is not None
    delta.require_usable()


def test_everything_from_the_aws_profile(bare: pytest.MonkeyPatch, front: TlsFront) -> None:
    _profile(
        bare,
        f"[profile shop]\naws_access_key_id = {_SECRETS[0]}\n"
        f"aws_secret_access_key = {_SECRETS[1]}\n"
        f"region = us-east-1\nendpoint_url = {front.url}\nca_bundle = {front.ca}\n",
    )
    _use_every_library()


def test_the_profiles_services_section_comes_first(
    bare: pytest.MonkeyPatch, front: TlsFront
) -> None:
    _profile(
        bare,
        f"[profile shop]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:9\nservices = ours\n"
        f"ca_bundle = {front.ca}\n[services ours]\ns3 =\n  endpoint_url = {front.url}\n",
    )
    _keys(bare)
    _use_every_library()


def test_a_profile_and_a_ca_that_are_named_in_dotenv(
    bare: pytest.MonkeyPatch, front: TlsFront
) -> None:
    _profile(
        bare,
        f"[profile shop]\naws_access_key_id = {_SECRETS[0]}\n"
        f"aws_secret_access_key = {_SECRETS[1]}\n"
        f"endpoint_url = {front.url}\n",
    )
    bare.delenv("AWS_PROFILE")
    Path(".env").write_text(f"AWS_PROFILE=shop\nAWS_CA_BUNDLE={front.ca}\n")
    _use_every_library()


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_an_empty_profile_is_none(bare: pytest.MonkeyPatch, moto: S3Endpoint, name: str) -> None:
    bare.setenv(name, "")
    bare.setenv("AWS_ENDPOINT_URL", moto.url)
    _keys(bare)
    _publish(_lake())
    assert _lake().open(_KEY).read()["a"].to_pylist() == [1, 2, 3]


def test_an_empty_ca_bundle_does_not_turn_verification_off(
    bare: pytest.MonkeyPatch, front: TlsFront
) -> None:
    _keys(bare)
    bare.setenv("AWS_ENDPOINT_URL", front.url)
    bare.setenv("AWS_CA_BUNDLE", "")
    with pytest.raises(UserError, match="not of a CA that is trusted: set AWS_CA_BUNDLE"):
        _lake().find(_KEY)


@pytest.mark.parametrize("password", [False, True])
def test_a_proxy_is_used_by_all_and_its_password_is_in_no_plan(
    bare: pytest.MonkeyPatch, front: TlsFront, password: bool
) -> None:
    _keys(bare, token=True)
    place = f"{_STORE}:{front.port}"
    bare.setenv("AWS_ENDPOINT_URL", f"https://{place}")
    bare.setenv("AWS_CA_BUNDLE", str(front.ca))
    credentials = "us@er:p:ss" if password else None
    with ForwardProxy(credentials, {place: ("127.0.0.1", front.port)}) as proxy:
        bare.setenv("https_proxy", proxy.url)
        _use_every_library()
        frame = _lake().scan([_KEY])
        if password:
            with pytest.raises(Exception, match="pickle"):
                pickle.dumps(frame)
        else:
            assert proxy.address.encode() in pickle.dumps(frame)
        assert set(proxy.requests) == {place}
        assert all("p:ss" not in text and "p%3Ass" not in text for text in _shown(frame))


def test_plain_http_goes_through_its_own_proxy(bare: pytest.MonkeyPatch, moto: S3Endpoint) -> None:
    _keys(bare)
    port = int(moto.url.rpartition(":")[2])
    bare.setenv("AWS_ENDPOINT_URL", f"http://{_STORE}:{port}")
    bare.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with ForwardProxy(forward={f"{_STORE}:{port}": ("127.0.0.1", port)}) as proxy:
        bare.setenv("HTTP_PROXY", proxy.url)
        _use_every_library()
        assert proxy.requests[f"{_STORE}:{port}"] > 5


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_store_on_loopback_is_never_asked_through_a_proxy(
    bare: pytest.MonkeyPatch, moto: S3Endpoint, host: str
) -> None:
    _keys(bare)
    bare.setenv("AWS_ENDPOINT_URL", moto.url.replace("127.0.0.1", host))
    with ForwardProxy() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            bare.setenv(name, proxy.url)
        _use_every_library()
        assert not proxy.requests


def _shown(frame: pl.LazyFrame) -> list[str]:
    """All that is shown or kept of a frame."""
    derived = frame.filter(pl.col("a") > 1).group_by("a").len()
    return [
        text
        for each in (frame, derived)
        for text in (repr(each), str(each), each.explain(), each.explain(optimized=False))
    ]


@pytest.mark.parametrize(
    ("environment", "dotenv", "used"),
    [
        # A session token of the environment is not of the keys of `.env`, nor the reverse.
        ({"AWS_SESSION_TOKEN": "E"}, ["k", "s", ""], ("k", "s", None)),
        ({"AWS_SESSION_TOKEN": "E"}, ["k", "s", "t"], ("k", "s", "t")),
        (
            {"AWS_ACCESS_KEY_ID": "K", "AWS_SECRET_ACCESS_KEY": "S"},
            ["k", "s", "t"],
            ("K", "S", None),
        ),
        (
            {"AWS_ACCESS_KEY_ID": "K", "AWS_SECRET_ACCESS_KEY": "S", "AWS_SESSION_TOKEN": "E"},
            ["k", "s", ""],
            ("K", "S", "E"),
        ),
        # Alone, it is of no keys: those of the profile are taken.
        ({"AWS_SESSION_TOKEN": "E"}, ["", "", ""], ("of-profile", "secret-of-profile", None)),
        ({"AWS_ACCESS_KEY_ID": ""}, ["k", "s", "t"], ("of-profile", "secret-of-profile", None)),
    ],
)
def test_credentials_are_all_of_one_place(
    bare: pytest.MonkeyPatch,
    moto: S3Endpoint,
    environment: dict[str, str],
    dotenv: list[str],
    used: tuple[str, str, str | None],
) -> None:
    _profile(
        bare,
        "[profile shop]\naws_access_key_id = of-profile\n"
        f"aws_secret_access_key = secret-of-profile\nendpoint_url = {moto.url}\n",
    )
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    Path(".env").write_text(
        "".join(f"{name}={value}\n" for name, value in zip(names, dotenv, strict=True) if value)
    )
    for name, value in environment.items():
        bare.setenv(name, value)
    _, access = open_bucket(load_settings(), moto.bucket, StoreLimits())
    options = access.storage_options()
    found = [options.get(name.lower()) or None for name in names]
    assert tuple(found) == used
    # Without a token deltalake would use the environment's.
    assert (options.get("aws_session_token") == "") == (
        used[2] is None and "AWS_SESSION_TOKEN" in environment
    )


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "k"}, "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "s"}, "AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "absent"}, "absent.*Look at AWS_PROFILE"),
        ({"AWS_CA_BUNDLE": "absent.pem"}, r"CA bundle absent.pem can't be used \(No such file"),
        ({"AWS_CA_BUNDLE": ".env"}, "CA bundle .env can't be used.*PEM"),
        ({"AWS_ENDPOINT_URL": "https://s3.test/transactions"}, "ends with the bucket 'transactio"),
        ({"AWS_ENDPOINT_URL": "https://transactions.s3.test"}, "'transactions' in its host: leave"),
        ({"HTTPS_PROXY": "socks5://me:p:ss@h:1"}, "^HTTPS_PROXY does not name an HTTP proxy"),
        ({"HTTPS_PROXY": "http://h:port"}, "^HTTPS_PROXY does not name an HTTP proxy"),
        ({"https_proxy": "http://h:port"}, "^https_proxy does not name an HTTP proxy"),
        ({"HTTPS_PROXY": "not a host p:ss"}, "^HTTPS_PROXY does not name an HTTP proxy"),
        ({"HTTPS_PROXY": "http://h.test/?key=p:ss"}, "^HTTPS_PROXY does not name an HTTP proxy"),
        ({"HTTPS_PROXY": "http://日本:p:ss@h:1"}, "^HTTPS_PROXY does not name an HTTP proxy"),
    ],
)
def test_a_wrong_setting_is_said_at_the_start(
    bare: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    Path(".env").write_text("# This is no certificate.\n")
    if not environment.keys() & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}:
        _keys(bare)
    for name, value in environment.items():
        bare.setenv(name, value)
    with pytest.raises(UserError, match=message) as raised:
        _lake()
    assert "\n" not in str(raised.value)
    assert not any(secret in str(raised.value) for secret in _SECRETS)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("endpoint_url = localhost:9000", "^the endpoint_url of the AWS profile must"),
        ("endpoint_url = http://me:p:ss@localhost:9000", "^the endpoint_url of the AWS profile "),
        ("services = absent", "AWS"),
        ("[not closed", "AWS"),
        ("credential_process = /bin/false\nendpoint_url = http://127.0.0.1:9", "AWS"),
    ],
)
def test_a_wrong_profile_is_said_in_one_sentence(
    bare: pytest.MonkeyPatch, lines: str, message: str
) -> None:
    _profile(bare, f"[profile shop]\n{lines}\n")
    if "process" not in lines:
        _keys(bare)
    with pytest.raises(UserError, match=message) as raised:
        _lake().find(_KEY)
    assert "\n" not in str(raised.value)
    assert "p:ss" not in str(raised.value)


def test_a_bucket_in_the_endpoints_host_is_pointed_out_where_the_store_fails(
    bare: pytest.MonkeyPatch,
) -> None:
    _keys(bare)
    bare.setenv("AWS_ENDPOINT_URL", "http://transactions.localhost:9")
    bucket, _ = open_bucket(load_settings(), "transactions", StoreLimits(Backoff(1, 0, 0)))
    with pytest.raises(UserError, match=r"in its host: leave it off .*http://localhost:9"):
        bucket.head(_KEY)


@pytest.mark.parametrize(
    ("url", "excluded", "direct"),
    [
        ("https://store", "", False),
        ("https://store", "store", True),
        ("https://a.store", "store", True),
        ("https://a.store", ".store", True),
        ("https://astore", "store", False),
        ("https://store:1", "store:1", True),
        ("https://store:1", "store:2", False),
        ("https://store", "*", True),
        ("https://STORE", " other , Store ", True),
        ("https://store.", "other,,", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.9.9.9/8", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://[fd00::1]", "fd00::/8", True),
        ("https://127.0.0.1", "", True),
        ("https://127.9.9.9:1", "", True),
        ("https://[::1]:1", "", True),
        ("https://localhost", "", True),
        ("https://bucket.localhost", "", True),
        ("http://store", "", True),
        ("http://[", "", True),
    ],
)
def test_which_addresses_are_asked_directly(
    bare: pytest.MonkeyPatch, url: str, excluded: str, direct: bool
) -> None:
    bare.setenv("HTTPS_PROXY", "http://upper:1")
    bare.setenv("https_proxy", "lower:3128")
    bare.setenv("no_proxy", excluded)
    proxy = proxy_for(url)
    assert (proxy is None) == direct
    assert proxy is None or (proxy.url, proxy.port) == ("http://lower:3128", 3128)


def test_a_source_is_asked_through_its_proxy_and_by_its_ca(
    bare: pytest.MonkeyPatch, generator_url: str, tmp_path: Path
) -> None:
    with TlsFront(generator_url, tmp_path) as front:
        place = f"{_STORE}:{front.port}"
        with ForwardProxy("me:p:ss", {place: ("127.0.0.1", front.port)}) as proxy:
            bare.setenv("HTTPS_PROXY", proxy.url)
            source = Source(f"https://{place}", GENERATOR, Limits(backoff=source_backoff(1)))
            with pytest.raises(UserError, match="CERTIFICATE_VERIFY_FAILED"):
                source.watermark()
            bare.setenv("AWS_CA_BUNDLE", str(front.ca))
            assert Source(f"https://{place}", GENERATOR).watermark().minute == 0
            assert proxy.requests[place] > 1
            proxy.requests.clear()
            # Through TLS, but on loopback: directly.
            Source(front.url, GENERATOR).watermark()
            assert not proxy.requests


def test_a_frame_holds_no_credentials_and_gets_them_where_it_is_read(
    bare: pytest.MonkeyPatch, moto: S3Endpoint, tmp_path: Path
) -> None:
    _keys(bare, token=True)
    bare.setenv("AWS_ENDPOINT_URL", moto.url)
    _publish(_lake())
    frame = _lake().scan([_KEY])
    joined = frame.join(frame.group_by("a").len(), on="a").filter(pl.col("a") > 1)
    for each in (frame, joined):
        kept = (pickle.dumps(each), each.serialize(), *(t.encode() for t in _shown(frame)))
        assert not any(secret.encode() in text for text in kept for secret in _SECRETS)
    (tmp_path / "frame").write_bytes(pickle.dumps(joined))
    program = (
        "import pickle; rows = pickle.load(open('frame', 'rb')).select('a').sort('a').collect()\n"
        "print(rows.rows())"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert fresh.stdout.strip() == "[(2,), (3,)]", fresh.stderr
    bare.delenv("AWS_SECRET_ACCESS_KEY")
    bare.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="there are no credentials for bucket"):
        CredentialProvider()()


def test_neither_a_lake_nor_its_files_can_be_pickled(
    bare: pytest.MonkeyPatch, moto: S3Endpoint
) -> None:
    _keys(bare)
    bare.setenv("AWS_ENDPOINT_URL", moto.url)
    lake = _lake()
    _, access = open_bucket(load_settings(), moto.bucket, StoreLimits())
    for secret in (lake, LakeFile(lake, _KEY), access):
        with pytest.raises(UserError, match="can't be"):
            pickle.dumps(secret)


def test_doctor_reads_through_every_library(
    bare: pytest.MonkeyPatch, moto: S3Endpoint, front: TlsFront
) -> None:
    _keys(bare)
    bare.setenv("AWS_ENDPOINT_URL", front.url)
    bare.setenv("AWS_CA_BUNDLE", str(front.ca))
    bare.setattr("txn_platform.doctor._examine_source", lambda *_: "there")
    said = [finding.message for finding in examine() if finding.good]
    assert "reading by pyarrow: pyarrow reads what is written" in said
    assert "reading by polars: polars reads what is written" in said
    bare.delenv("AWS_CA_BUNDLE")
    (bad,) = [finding for finding in examine() if finding.subject == "lake"]
    assert not bad.good
    assert "set AWS_CA_BUNDLE" in bad.message


@pytest.mark.parametrize("library", ["pyarrow", "polars"])
def test_doctor_says_no_where_one_library_cannot_read(
    bare: pytest.MonkeyPatch, moto: S3Endpoint, library: str
) -> None:
    _keys(bare)
    bare.setenv("AWS_ENDPOINT_URL", moto.url)
    bare.setattr("txn_platform.doctor._examine_source", lambda *_: "there")
    broken = {"pyarrow": "filesystem", "polars": "scan"}[library]

    def fail(*_: object) -> None:
        raise OSError("error 60\n  caused by the certificate")

    bare.setattr(S3Access, broken, fail)
    (bad,) = [finding for finding in examine() if not finding.good]
    assert f"{library} can't read what boto3 has written: error 60 ... caused by the" in bad.message
    assert "AWS_CA_BUNDLE" in bad.message


def test_credentials_that_expire_are_requested_again(
    bare: pytest.MonkeyPatch, moto: S3Endpoint
) -> None:
    """A process that prints keys which are valid for a moment, as a login does."""
    Path("login.py").write_text(
        "import json, pathlib, datetime as d\n"
        "count = pathlib.Path('count'); n = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (n + 1))\n"
        "until = d.datetime.now(d.UTC) + d.timedelta(seconds=60)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'key-{n}', 'SecretAccessKey': 's',"
        " 'SessionToken': f'token-{n}', 'Expiration': until.isoformat()}))\n"
    )
    _profile(
        bare,
        f"[profile shop]\ncredential_process = {sys.executable} login.py\n"
        f"endpoint_url = {moto.url}\n",
    )
    _, access = open_bucket(load_settings(), moto.bucket, StoreLimits())
    keys = [access.storage_options()["aws_access_key_id"] for _ in range(2)]
    assert keys[0] != keys[1]
    key, until = access.credentials()
    assert key["aws_session_token"] == key["aws_access_key_id"].replace("key", "token")
    assert until < time.time() + 600


def test_the_profiles_addressing_is_every_librarys(
    bare: pytest.MonkeyPatch, moto: S3Endpoint
) -> None:
    _profile(
        bare,
        "[profile shop]\nendpoint_url = http://s3.localhost:1\n"
        "s3 =\n  addressing_style = virtual\n",
    )
    _keys(bare)
    bucket, access = open_bucket(load_settings(), moto.bucket, StoreLimits())
    options = access.storage_options()
    assert options["aws_endpoint_url"] == f"http://{moto.bucket}.s3.localhost:1"
    assert options["aws_virtual_hosted_style_request"] == "true"
    url = bucket.client.generate_presigned_url("get_object", {"Bucket": moto.bucket, "Key": "a"})
    assert url.startswith(f"http://{moto.bucket}.s3.localhost:1/a")


def test_a_store_of_the_profile_is_addressed_by_path_unless_it_is_said_otherwise(
    bare: pytest.MonkeyPatch, moto: S3Endpoint
) -> None:
    _profile(bare, "[profile shop]\nendpoint_url = http://s3.localhost:1\n")
    _keys(bare)
    bucket, access = open_bucket(load_settings(), moto.bucket, StoreLimits())
    assert access.storage_options()["aws_endpoint_url"] == "http://s3.localhost:1"
    url = bucket.client.generate_presigned_url("get_object", {"Bucket": moto.bucket, "Key": "a"})
    assert url.startswith(f"http://s3.localhost:1/{moto.bucket}/a")


def test_a_profile_may_ignore_its_endpoints(bare: pytest.MonkeyPatch, moto: S3Endpoint) -> None:
    _profile(
        bare,
        "[profile shop]\nregion = us-east-1\nendpoint_url = http://s3.localhost:1\n"
        "ignore_configured_endpoint_urls = true\n",
    )
    _keys(bare)
    bucket, access = open_bucket(load_settings(), moto.bucket, StoreLimits())
    assert bucket.client.meta.endpoint_url == "https://s3.amazonaws.com"
    assert "localhost" not in str(access.storage_options())
