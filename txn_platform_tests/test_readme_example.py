"""The documented asset of one's own, on an S3: what it computes, and what a run leaves behind."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import polars as pl

from txn_platform_tests.support.served_source import ServedSource, sent_row, served
from txn_platform_tests.support.served_tls import TlsFront
from txn_platform_tests.test_commands import CARD_KEY, run, run_fresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from txn_platform_tests.conftest import S3Endpoint

_PAGE: Final = Path(__file__).parents[1] / "docs" / "io-manager.md"
_PUBLISHED: Final = "s3_parquet_transactions"
_PARTITION: Final = "2026-11-01-00:00"
_SECRETS: Final = (
    "an-access-key-id-to-be-found",
    "a-secret/access+key-to-be-found",
    "a-session-token/to+be-found",
    CARD_KEY,
)
# The same asset as a user has it who did not read on, and one that reads what it stored.
_OTHERS: Final = """
@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
def without_lake(s3_parquet_transactions: pl.LazyFrame) -> pl.LazyFrame:
    return s3_parquet_transactions.select(pl.len())


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"), io_manager_key="lake")
def of_it(without_lake: pl.LazyFrame) -> pl.LazyFrame:
    return without_lake


defs = dg.Definitions.merge(
    build_defs(), dg.Definitions(assets=[spend_by_merchant, without_lake, of_it])
)
"""


def _spellings(secret: str) -> set[bytes]:
    """A secret as it is, as an address and a header have it, and in Base64."""
    return {
        secret.encode(),
        quote(secret, safe="").encode(),
        secret.replace("/", "\\/").encode(),
        secret.encode("utf-16-le"),
        base64.b64encode(secret.encode()).rstrip(b"=")[:-1],
    }


def _files_with(directory: Path, secrets: tuple[str, ...]) -> list[tuple[Path, str]]:
    return [
        (path, secret)
        for path in directory.rglob("*")
        if path.is_file()
        for secret in secrets
        if any(spelling in path.read_bytes() for spelling in _spellings(secret))
    ]


def test_the_example_computes_and_leaves_no_credential(
    s3_servers: Callable[[str], S3Endpoint], s3_prefix: str, tmp_path: Path
) -> None:
    moto = s3_servers("moto")
    (example,) = re.findall(r"```python\n(.*?)```", _PAGE.read_text("utf-8"), re.DOTALL)
    code, left, home = tmp_path / "code", tmp_path / "left", tmp_path / "left/home"
    for directory in (code, home, left / "tmp"):
        directory.mkdir(parents=True)
    imports = "from txn_platform.definitions import build_defs\n"
    (code / "shop.py").write_text(f"{imports}{example}{_OTHERS}")
    with (
        served(ServedSource([sent_row(number) for number in range(20)])) as source,
        TlsFront(moto.url, tmp_path) as front,
    ):
        # Endpoint and CA are in the profile: every reader must know of them.
        profile = f"[profile shop]\nendpoint_url = {front.url}\nca_bundle = {front.ca}\n"
        (code / "aws").write_text(profile)
        environment = {
            "AWS_BUCKET_NAME": moto.bucket,
            "AWS_ACCESS_KEY_ID": _SECRETS[0],
            "AWS_SECRET_ACCESS_KEY": _SECRETS[1],
            "AWS_SESSION_TOKEN": _SECRETS[2],
            "AWS_CONFIG_FILE": str(code / "aws"),
            "AWS_PROFILE": "shop",
            "TXN_CARD_KEY": CARD_KEY,
            "TXN_LAKE_PREFIX": s3_prefix,
            "TXN_HOME": str(left / "txn"),
            "GENERATOR_URL": source.url,
            "DAGSTER_HOME": str(home),
            "TMPDIR": str(left / "tmp"),
        }

        def succeed(*command: str, by: Any = run) -> None:
            done = by(*command, environment=environment, cwd=str(left))
            assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
            (left / f"{command[-1]}.log").write_text(done.stdout + done.stderr)

        def materialize(selection: str, partition: str, by: Any) -> None:
            chosen = ("--select", selection, "--partition", partition)
            shop = ("-f", str(code / "shop.py"))
            succeed("dagster", "asset", "materialize", *shop, *chosen, by=by)

        names = ("raw_transactions", "validated_transactions", "quarantined_transactions")
        materialize(",".join([*names, _PUBLISHED]), _PARTITION, run)
        hour = f"{s3_prefix}/{_PUBLISHED}/event_date=2026-11-01/event_hour={{:02}}/part-0.parquet"
        client = moto.client()
        for number in range(1, 24):
            client.copy(
                {"Bucket": moto.bucket, "Key": hour.format(0)}, moto.bucket, hour.format(number)
            )
        materialize("spend_by_merchant,without_lake,of_it", "2026-11-01", run_fresh)
        succeed("txn", "quarantine")
        succeed("txn", "doctor")

    def stored(name: str) -> pl.DataFrame:
        key = f"{s3_prefix}/{name}/event_date=2026-11-01/part-0.parquet"
        found = pl.read_parquet(client.get_object(Bucket=moto.bucket, Key=key)["Body"].read())
        return found.sort(found.columns[0])

    published = client.get_object(Bucket=moto.bucket, Key=hour.format(0))["Body"].read()
    groups = ("merchant_id", "currency")
    spent = pl.read_parquet(published).group_by(groups).agg(24 * pl.col("amount").sum())
    assert stored("spend_by_merchant").sort(groups).rows() == spent.sort(groups).rows()
    assert stored("of_it").item() == 24 * 20

    pickled = [path for path in left.rglob("*") if path.is_file() and "without_lake" in str(path)]
    assert any(b"polars.lazyframe" in path.read_bytes() for path in pickled)
    assert _files_with(left, _SECRETS) == []
    # The search finds what it looks for, in each spelling.
    for number, spelling in enumerate(_spellings(_SECRETS[1])):
        (left / f"leak-{number}").write_bytes(b"..." + spelling + b"...")
    assert len(_files_with(left, _SECRETS)) == len(_spellings(_SECRETS[1]))
