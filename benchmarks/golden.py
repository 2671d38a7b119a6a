"""Golden digests: what the platform and the generator write, byte for byte.

Eight windows are run into lakes of their own, and a window is generated in every format. The
SHA-256 of each object is compared with `golden.json`, which an earlier commit has made. A change
of structure changes none of them. A commit that changes what is written says so.

    python benchmarks/golden.py            # compare
    python benchmarks/golden.py --write    # write golden.json

Needs the packages that `requirements.lock` names: Parquet files hold the version of their writer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, override

if TYPE_CHECKING:
    from txn_platform.settings import Settings
    from txn_platform.source.api import SourceApi

_GOLDEN = Path(__file__).with_name("golden.json")
_PARTITION = "2026-11-01-18:00"
_BASE = {
    "GENERATOR_SEED": "7",
    "GENERATOR_TPS": "2",
    "GENERATOR_CUSTOMERS": "2000",
    "GENERATOR_MERCHANTS": "300",
    "TXN_CARD_KEY": "a key of sixteen bytes and more",
    "TXN_MAX_QUARANTINE": "1",
}
_AS_OF = "2026-11-01T19:00:30Z"
_EARLY_ROWS = f"/v1/transactions?start={{start}}&end={{end}}&format={{format}}&as_of={_AS_OF}"
# A run of a source without control totals, whose later rows have not arrived yet.
_EARLY: dict[str, str] = {}
_DEFECTS = {"GENERATOR_DEFECTS": "all:0.05"}
# The runs of each window, one after the other into one lake.
_WINDOWS: dict[str, list[dict[str, str]]] = {
    "clean": [{}],
    "all defects": [_DEFECTS],
    "late rows": [_EARLY, {}],
    "JSON pages": [_DEFECTS | {"GENERATOR_FORMAT": "json"}],
    "CSV": [_DEFECTS | {"GENERATOR_FORMAT": "csv"}],
    "NDJSON": [_DEFECTS | {"GENERATOR_FORMAT": "ndjson"}],
    "preset handbook": [{"GENERATOR_PRESET": "handbook"}],
    "preset realistic, cards in clear": [
        {"GENERATOR_PRESET": "realistic", "TXN_CARD_POLICY": "clear"}
    ],
}
_TXN = str(Path(sys.executable).with_name("txn"))
_FORMATS = ("parquet", "ndjson", "csv", "arrow")


def _run(arguments: list[str], directory: Path, settings: dict[str, str]) -> bytes:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    ended = subprocess.run(
        arguments,
        cwd=directory,
        env=environment | _BASE | settings,
        capture_output=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(f"{' '.join(arguments)} with {settings} failed:\n{ended.stderr.decode()}")
    return ended.stdout


def _land_early() -> None:
    """Run the window with the rows that had arrived early; into the lake of this directory."""
    import dagster as dg

    from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
    from txn_platform.defs.io_managers import LakeIOManager
    from txn_platform.defs.resources import (
        CardKeyResource,
        GeneratorResource,
        LakeResource,
        QuarantineResource,
    )
    from txn_platform.source.api import SourceApi

    class Early(GeneratorResource):
        @override
        def api(self, settings: Settings, url: str) -> SourceApi:
            return SourceApi(_EARLY_ROWS, format="arrow", lag=timedelta(0))

    lake = LakeResource()
    dg.materialize(
        [raw_transactions, validation, s3_parquet_transactions],
        partition_key=_PARTITION,
        resources={
            "generator": Early(),
            "store": lake,
            "lake": LakeIOManager(lake=lake),
            "card_key": CardKeyResource(),
            "quarantine": QuarantineResource(),
        },
    )


def _digests(directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, runs in _WINDOWS.items():
        home = directory / name.replace(" ", "-")
        home.mkdir()
        for number, settings in enumerate(runs):
            if settings is _EARLY:
                _run([sys.executable, __file__, "--early"], home, {})
            else:
                _run([_TXN, "run", "--partition", _PARTITION], home, settings)
            lake = home / ".txn" / "lake"
            for path in sorted(lake.rglob("*.parquet")):
                run = f" {number + 1}" if len(runs) > 1 else ""
                key = f"{name}{run}: {path.relative_to(lake).as_posix()}"
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    window = ["--start", "2026-11-01T18:00:00Z", "--end", "2026-11-01T19:00:00Z"]
    for form in _FORMATS:
        for name, settings in (("clean", {}), ("all defects", _DEFECTS)):
            written = _run([_TXN, "generate", *window, "--format", form], directory, settings)
            found[f"generate {form}, {name}"] = hashlib.sha256(written).hexdigest()
    return found


def main() -> int:
    """Compare, or write; exit code 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--early", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.early:
        _land_early()
        return 0
    with tempfile.TemporaryDirectory() as directory:
        found = _digests(Path(directory))
    if options.write:
        _GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    golden = json.loads(_GOLDEN.read_text())
    different = [name for name in golden | found if golden.get(name) != found.get(name)]
    for name in different:
        print(f"differs: {name}")
    print(f"{len(found) - len(different)} of {len(golden)} objects are as they were")
    return min(len(different), 1)


if __name__ == "__main__":
    sys.exit(main())
