"""Folders and directories of any name: read where they were written, or refused at the start."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from txn_platform.cli import main
from txn_platform.defs import checks
from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
from txn_platform.defs.resources import GeneratorResource
from txn_platform.errors import UserError
from txn_platform.lake.delta import open_delta, require_delta
from txn_platform.lake.layout import object_key, window_of_key
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.support.run_resources import run_resources
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

_PARTITION = "2026-11-01-00:00"
_WINDOW = Window.of_partition(_PARTITION)
_SCHEMA = pa.schema([pa.field("number", pa.int64())])
_KEY = object_key("asset", _WINDOW)
# Each with a neighbour that it would be if it were a pattern, or half an address.
_NAMES = [
    ("a[1]b", "a1b"),
    ("a[!x]b", "a1b"),
    ("a?b", "acb"),
    ("a?b", "a"),
    ("a*b", "accb"),
    ("a**", "a"),
    ("a#b", "a"),
    ("a%b", "a%25b"),
    ("a%20b", "a b"),
    ("a+b", "a b"),
    ("a&b", "a"),
    (" a", "a"),
    ("a ", "a"),
    ("a'b", "ab"),
    ('a"b', "ab"),
    ("{a,b}", "a"),
    ("event_date=2020-01-01", "x"),
    ("a=b", "a"),
    ("a:b", "a"),
    ("~a", "a"),
    ("$HOME", "a"),
    ("...", "a"),
    ("é", "e\u0301"),
    ("日本 😀", "a"),
]


def _give(monkeypatch: pytest.MonkeyPatch, endpoint: S3Endpoint) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", endpoint.bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)


def _publish(number: int) -> None:
    lake = open_lake(load_settings())
    with lake.stage(_SCHEMA, Encoding(compression="zstd")) as writer:
        writer.write(pl.DataFrame({"number": [number]}))
        lake.publish(writer.finish(), _KEY)


def _numbers() -> tuple[list[int], list[int], list[str]]:
    """The numbers as both ways of reading have them, and the keys."""
    # As another process: nothing that was published by this one is kept.
    lake = open_lake(load_settings())
    return (
        lake.scan([_KEY]).collect()["number"].to_list(),
        lake.open(_KEY).read()["number"].to_pylist(),
        lake.keys("asset"),
    )


@pytest.mark.parametrize("names", _NAMES, ids=str)
def test_a_directory_of_any_name_is_read_where_it_was_written(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        monkeypatch.setenv("TXN_HOME", str(tmp_path / name))
        _publish(number)
    for number, name in enumerate(names):
        monkeypatch.setenv("TXN_HOME", str(tmp_path / name))
        assert _numbers() == ([number], [number], [_KEY])
        # As the working directory, too.
        monkeypatch.chdir(tmp_path)
        monkeypatch.chdir(name)
        monkeypatch.setenv("TXN_HOME", ".")
        assert _numbers() == ([number], [number], [_KEY])
    found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.parquet")}
    assert found == set(names)


def test_a_folder_of_any_name_is_read_where_it_was_written(
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _give(monkeypatch, s3_servers("seaweedfs"))
    # A client takes long to make: these are the ones that a key treats in a way of its own.
    folders = ["a[1]b", "a1b", "a?b", "a", "a*b", "a#b", "a%20b", "a b", "a+b", " a ", "...", "é"]
    for number, name in enumerate(folders):
        monkeypatch.setenv("TXN_LAKE_PREFIX", f"{s3_prefix}/{name}")
        _publish(number)
    for number, name in enumerate(folders):
        monkeypatch.setenv("TXN_LAKE_PREFIX", f"{s3_prefix}/{name}")
        assert _numbers() == ([number], [number], [_KEY]), name


@pytest.mark.parametrize("kind", ["directory", "seaweedfs"])
def test_a_delta_table_is_where_its_name_says(
    kind: str,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A table of its own for each name that is not refused."""
    place = str(tmp_path)
    if kind != "directory":
        endpoint = s3_servers(kind)
        _give(monkeypatch, endpoint)
        place = f"s3://{endpoint.bucket}/{s3_prefix}"
    made: set[str] = set()
    for name in dict.fromkeys(name for names in _NAMES for name in names):
        monkeypatch.setenv("DELTA_LAKE_S3_PATH", f"{place}/{name}/t")
        if "%2" in name or (kind == "directory" and "[" in name):
            with pytest.raises(UserError, match="DELTA_LAKE_S3_PATH"):
                load_settings()
            continue
        delta = require_delta(open_delta(load_settings()))
        assert not delta.exists(), name
        delta.require_usable()
        assert delta.exists()
        made.add(name)
    if kind == "directory":
        found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.json")}
    else:
        keys = s3_servers(kind).client().list_objects_v2(Bucket="transactions", Prefix=s3_prefix)
        found = {entry.get("Key", "").split("/")[1] for entry in keys.get("Contents", [])}
    assert found == made


@pytest.fixture
def source() -> Iterator[ServedSource]:
    rows = [sent_row(number) for number in range(50)] + [sent_row(90, amount="1.005")]
    with served(ServedSource(rows)) as source:
        yield source


def _materialize(source: ServedSource, *names: str) -> dg.ExecuteInProcessResult:
    @dg.asset(
        partitions_def=s3_parquet_transactions.partitions_def,
        ins={"rows": dg.AssetIn(key=checks.PUBLISHED, input_manager_key="lake")},
        io_manager_key="lake",
    )
    def spend(rows: pl.LazyFrame) -> pl.DataFrame:
        return rows.select(pl.len().alias("rows")).collect()

    return dg.materialize(
        [raw_transactions, validation, s3_parquet_transactions, spend],
        selection=list(names) or None,
        partition_key=_PARTITION,
        resources=run_resources(GeneratorResource(url=source.url)),
    )


@pytest.mark.parametrize("kind", ["directory", "seaweedfs"])
def test_every_command_works_under_any_name(  # noqa: PLR0917 - fixtures
    kind: str,
    source: ServedSource,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A run, then single assets, then the commands."""
    name = "a?b*c#d% e+f&g{h}'i\"é~$;=,"
    home = tmp_path / name / "home"
    home.mkdir(parents=True)
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("TXN_HOME", "home")
    place = str(tmp_path / name / "delta")
    if kind != "directory":
        name += "[1]^|"
        endpoint = s3_servers(kind)
        _give(monkeypatch, endpoint)
        monkeypatch.setenv("TXN_LAKE_PREFIX", f"{s3_prefix}/{name}/lake")
        place = f"s3://{endpoint.bucket}/{s3_prefix}/{name}/delta"
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", place)
    assert _materialize(source).success
    for asset in ("s3_parquet_transactions", "validated_transactions", "spend"):
        assert _materialize(source, asset).success
    lake = open_lake(load_settings())
    assert lake.scan([object_key("spend", _WINDOW)]).collect()["rows"].to_list() == [50]
    shown = CliRunner().invoke(main, ["quarantine"])
    assert shown.exit_code == 0
    assert "amount" in shown.output
    optimized = CliRunner().invoke(main, ["optimize"])
    assert (optimized.exit_code, place in optimized.output) == (0, True)
    expired = CliRunner().invoke(main, ["expire", "--older-than", "1d", "--yes"])
    assert expired.exit_code == 0
    assert lake.keys(checks.RAW) == lake.keys(checks.QUARANTINED) == []
    assert lake.keys(checks.PUBLISHED) == [object_key(checks.PUBLISHED, _WINDOW)]
    if kind == "directory":
        assert DeltaTable(place).version() == 1


_CONTROL = ["a\nb", "a\tb", "a\x7fb", "a\x85b", "a\u2028b"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("TXN_LAKE_PREFIX", value) for value in ("a//b", "a/../b", "..", ".", "a/./b", "a/..")),
        *(("TXN_LAKE_PREFIX", value) for value in ("/a", "a/", "/", "a\\b", "x" * 701, *_CONTROL)),
        *(("TXN_HOME", value) for value in _CONTROL),
        *(("DELTA_LAKE_S3_PATH", f"s3://bucket/{value}") for value in ("a//b", "a/../b", "..")),
        *(("DELTA_LAKE_S3_PATH", f"s3://bucket/{value}") for value in ("/a", "a%20b", "a\\b")),
        *(("DELTA_LAKE_S3_PATH", f"s3://bucket/{value}") for value in ("a/_delta_log", *_CONTROL)),
        *(("DELTA_LAKE_S3_PATH", value) for value in ("s3://bu?cket/a", "s3://b#x/a", "s3:///a")),
        *(
            ("DELTA_LAKE_S3_PATH", value)
            for value in ("file:///a", "s3a://bucket/a", "a[1]", "a|b")
        ),
        *(("DELTA_LAKE_S3_PATH", value) for value in ("a^b", "a\\b", "a%20b", "a/_delta_log")),
    ],
)
def test_a_place_that_could_not_be_read_back_is_refused_by_its_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    for command in (["run"], ["quarantine"], ["expire", "--older-than", "1d"], ["doctor"]):
        refused = CliRunner().invoke(main, command)
        assert refused.exit_code == 1
        assert f"{variable}:" in refused.output
        assert refused.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [".txn", ".txn/lake", "."])
def test_a_table_around_the_lake_is_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimizing it would delete the lake's objects."""
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", place)
    with pytest.raises(UserError, match="set DELTA_LAKE_S3_PATH to a folder of its own"):
        open_delta(load_settings())


@pytest.mark.parametrize("folder", ["lake", "", "lake/"])
def test_a_table_around_the_lake_in_a_bucket_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", "bucket")
    monkeypatch.setenv("TXN_LAKE_PREFIX", "a/lake")
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", f"s3://bucket/a/{folder}")
    with pytest.raises(UserError, match="set DELTA_LAKE_S3_PATH to a folder of its own"):
        open_delta(load_settings())


@pytest.mark.parametrize("kind", ["directory", "moto"])
def test_a_table_is_not_made_among_other_files(
    kind: str,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    place = str(tmp_path / ".txn/lake/asset")
    if kind == "moto":
        endpoint = s3_servers(kind)
        _give(monkeypatch, endpoint)
        monkeypatch.setenv("TXN_LAKE_PREFIX", s3_prefix)
        place = f"s3://{endpoint.bucket}/{s3_prefix}/asset"
    _publish(1)
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", place)
    with pytest.raises(UserError, match=r"holds event_date.* to an empty folder"):
        require_delta(open_delta(load_settings())).require_usable()
    assert _numbers() == ([1], [1], [_KEY])


def test_a_working_directory_that_delta_cannot_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative place is in it; a link to it leads there."""
    (tmp_path / "a[1]").mkdir()
    (tmp_path / "link").symlink_to("a[1]")
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", "link/table")
    with pytest.raises(UserError, match=r"DELTA_LAKE_S3_PATH: .* no \[ "):
        load_settings()
    monkeypatch.chdir("a[1]")
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", "table")
    with pytest.raises(UserError, match=r"DELTA_LAKE_S3_PATH: .* no \[ "):
        load_settings()


def test_a_home_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TXN_HOME", "~/state")
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", "~/table")
    settings = load_settings()
    assert (settings.home, settings.delta_path) == (tmp_path / "state", str(tmp_path / "table"))


def test_objects_behind_links_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where a link leads in a circle."""
    _publish(1)
    day = tmp_path / ".txn/lake/asset/event_date=2026-11-01"
    day.rename(tmp_path / "elsewhere")
    day.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / ".txn/lake")
    (tmp_path / "elsewhere/itself").symlink_to(".")
    assert _KEY in _numbers()[2]
    monkeypatch.setenv("TXN_HOME", str(tmp_path / "link"))
    (tmp_path / "link").symlink_to(tmp_path / ".txn")
    assert _numbers()[0] == [1]


@pytest.mark.parametrize("key", ["a/part-0.parquet", "part-0.parquet", "a/b/c/part-0.parquet"])
def test_a_key_of_no_window_is_named(key: str) -> None:
    with pytest.raises(UserError, match=key):
        window_of_key(key)


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_home_that_dagster_cannot_use_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its databases would be in another directory, or nowhere."""
    home = tmp_path / name
    home.mkdir()
    monkeypatch.setenv("TXN_HOME", str(home))
    refused = CliRunner().invoke(main, ["dev", "--directory"])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: TXN_HOME must have no ")
    monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    refused = CliRunner().invoke(main, ["run", "--partition", _PARTITION])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: DAGSTER_HOME must have no ")


def test_generate_writes_to_the_file_that_is_named(tmp_path: Path) -> None:
    window = ["--start", "2026-11-01T00:00:00Z", "--end", "2026-11-01T00:00:01Z"]
    names = ["a[1]?*#%20 é.csv", "s3:x.csv", "~a.csv"]
    for name in names:
        assert CliRunner().invoke(main, ["generate", *window, "-o", name]).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    (tmp_path / "link.csv").symlink_to(names[0])
    before = (tmp_path / names[0]).stat().st_ino
    assert CliRunner().invoke(main, ["generate", *window, "-o", "link.csv"]).exit_code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / names[0]).stat().st_ino != before
