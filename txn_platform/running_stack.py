"""The local stack or cluster that runs under a `TXN_HOME`, as other commands find it.

`local/stack.py` and `local/cluster.py` start them. The settings use their lake and their source
while they run; see `settings.load_settings`.
"""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING, Final, NamedTuple

from txn_platform.private_files import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOCK: Final = "stack.lock"
"""Locked while a local stack or a cluster runs."""
CLUSTER: Final = "cluster"
"""The directory of a cluster's state."""
S3_KEYS: Final = "s3-keys.json"
"""The keys of its S3, for their owner alone."""
_VARIABLES: Final = "stack.json"
_STATE: Final = "state.json"
# Settings for another store, which do not apply to the stack's S3.
_HIDDEN: Final = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE")


def announce(home: Path, variables: Mapping[str, str]) -> None:
    """Say which settings lead to the stack that holds the lock.

    Args:
        home: its `TXN_HOME`.
        variables: values by the names of variables, without secrets.
    """
    # Renamed when complete: other commands read it at any time.
    draft = (home / _VARIABLES).with_suffix(".draft")
    draft.write_text(json.dumps(dict(variables), indent=1), "utf-8")
    draft.replace(home / _VARIABLES)


def announce_cluster(
    home: Path, addresses: Mapping[str, str], variables: Mapping[str, str], *, own_bucket: bool
) -> Path:
    """Say where the cluster is that holds the lock, in a file for its owner alone.

    Args:
        home: its `TXN_HOME`.
        addresses: what a person may open, by name.
        variables: the environment of its processes, with secrets, as far as it is the cluster's.
        own_bucket: whether its bucket is its own, and not that of the settings.

    Returns:
        The file.
    """
    path = home / CLUSTER / _STATE
    state = {"addresses": addresses, "variables": variables, "own_bucket": own_bucket}
    write_private(path, json.dumps(state, indent=1))
    return path


def announce_webserver(home: Path, address: str) -> None:
    """Add the address of Dagster's webserver to what the stack has announced.

    Args:
        home: its `TXN_HOME`.
        address: of the webserver.
    """
    announced = json.loads((home / _VARIABLES).read_text("utf-8"))
    announce(home, {**announced, "DAGSTER_WEBSERVER_URL": address})


def withdraw(home: Path) -> None:
    """Forget what a stack or a cluster announced."""
    (home / _VARIABLES).unlink(missing_ok=True)
    (home / CLUSTER / _STATE).unlink(missing_ok=True)


def running_stack(home: Path) -> dict[str, str | None] | None:
    """The settings that lead to the stack or cluster under a `TXN_HOME`, by variable.

    None means that a setting of the environment does not apply.

    Returns:
        None if no stack runs there, or it is not ready yet.
    """
    variables: dict[str, str | None]
    if (cluster := _running_cluster(home)) is not None:
        variables = {name: value or None for name, value in cluster.variables.items()}
        return variables | dict.fromkeys(_HIDDEN if cluster.own_bucket else ())
    if not is_held(home):
        return None
    try:
        variables = json.loads((home / _VARIABLES).read_text("utf-8"))
        if "AWS_BUCKET_NAME" in variables:
            variables |= dict.fromkeys(_HIDDEN) | json.loads((home / S3_KEYS).read_text("utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return variables


def cluster_uses(home: Path, bucket: str) -> bool:
    """Whether a cluster runs under a `TXN_HOME` that uses this bucket of the settings."""
    cluster = _running_cluster(home)
    if cluster is None or cluster.own_bucket:
        return False
    return cluster.variables.get("AWS_BUCKET_NAME") == bucket


def cluster_variables(home: Path) -> dict[str, str]:
    """The environment of the processes of a running cluster, as far as it is the cluster's.

    Returns:
        Nothing if no cluster runs under this `TXN_HOME`.
    """
    cluster = _running_cluster(home)
    return {} if cluster is None else cluster.variables


class _Cluster(NamedTuple):
    variables: dict[str, str]
    own_bucket: bool


def _running_cluster(home: Path) -> _Cluster | None:
    """The state that the cluster under a `TXN_HOME` has announced; None if none runs there."""
    try:
        state = json.loads((home / CLUSTER / _STATE).read_text("utf-8"))
        cluster = _Cluster(dict(state["variables"]), bool(state["own_bucket"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return cluster if is_held(home) else None


def is_held(home: Path) -> bool:
    """Whether a local stack runs under a `TXN_HOME`, or starts or ends there."""
    try:
        with (home / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
