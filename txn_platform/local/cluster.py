"""The cluster on one machine: the servers that a team runs on several, each as a process.

For `txn cluster`. They use the configuration that `deploy/` has, and are started again when they
end by themselves. The options of Postgres and Valkey belong in `postgres` and `valkey`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from txn_platform.card_key import card_key_for_processes
from txn_platform.errors import UserError
from txn_platform.local import seaweedfs
from txn_platform.local.dagster_processes import dagster_processes
from txn_platform.local.postgres import Postgres
from txn_platform.local.processes import (
    ManagedProcess,
    free_ports,
    generator_url,
    port_is_free,
    start_generator,
)
from txn_platform.local.restarts import Restarts
from txn_platform.local.stack_state import (
    dagster_home_of,
    first_hour,
    kept_secrets,
    s3_environment,
    sigterm_exits,
    start_s3,
    state_home,
    state_lock,
)
from txn_platform.local.valkey import Valkey
from txn_platform.network import without_proxy_for_loopback
from txn_platform.private_files import make_private_directory
from txn_platform.running_stack import CLUSTER, announce_cluster, withdraw
from txn_platform.settings import env_file_variables, load_settings
from txn_platform.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from txn_platform.settings import Settings

DAGSTER_YAML: Final = Path(__file__).parents[1] / "workers" / "dagster.yaml"
"""The configuration of production, which deploy/dagster.yaml in a checkout links to."""
_SERVERS: Final = ("postgres", "valkey", "generator")
# The packages of the extra `cluster`.
_PACKAGES: Final = ("dagster_celery", "dagster_postgres", "redis")
# Seconds that a running window has to end when the cluster stops.
GRACE: Final = 30


@dataclass(frozen=True)
class Cluster:
    """The servers of a cluster, and later its Dagster and its workers.

    Attributes:
        addresses: what a person may want to open, by name, without secrets.
        environment: the variables that make processes use the servers. An empty value hides one of
            the machine's environment.
        processes: those that are started again.
        home: `TXN_HOME`.
        lock: the descriptor of the lock on it, for further processes to hold.
        own_bucket: whether the bucket is its own, and not that of the settings.
    """

    addresses: dict[str, str]
    environment: dict[str, str]
    processes: tuple[ManagedProcess, ...]
    home: Path
    lock: int
    own_bucket: bool

    @property
    def state(self) -> Path:
        """The directory of the cluster's state."""
        return self.home / CLUSTER

    def wait(self, say: Callable[[str], None]) -> None:
        """Start again what ends by itself; return on Ctrl-C.

        Args:
            say: called with one line for each process that has ended.
        """
        restarts = Restarts(self.processes, say)
        with suppress(KeyboardInterrupt):
            while True:
                restarts.look()
                time.sleep(0.2)


@contextmanager
def cluster_servers(*, use_settings: bool) -> Generator[Cluster]:
    """Run Postgres, Valkey, an S3 server with a bucket, and a generator.

    They end with the block, and with this process in whatever way it ends. SIGTERM leaves the block
    as Ctrl-C does. Their data, keys and addresses stay for the next start.

    Args:
        use_settings: use the database, broker, bucket and source that settings name, and start the
            others only.

    Raises:
        UserError: a local stack or a cluster runs with this `TXN_HOME`, a package is not installed,
            or a server of the settings does not answer.
        ProcessFailed: one of them did not start.
    """
    _require_packages()
    settings = load_settings()
    home = state_home(settings)
    given = _given(settings) if use_settings else {}
    with ExitStack() as running:
        running.enter_context(sigterm_exits())
        lock = running.enter_context(state_lock(home))
        state = home / CLUSTER
        make_private_directory(state)
        starting = _Starting(state, lock, running)
        # Before anything is made in the directory.
        first = _first_hour(settings, state, given)
        environment = starting.environment
        environment |= {
            "TXN_HOME": str(home),
            "TXN_LAKE_DIRECTORY": "",
            "TXN_CARD_KEY": card_key_for_processes(settings),
            "TXN_FIRST_HOUR": first,
            # With the configuration of this version.
            "DAGSTER_HOME": str(dagster_home_of(state, DAGSTER_YAML, keep=False)),
            **without_proxy_for_loopback(),
            **given,
        }
        own = {
            "DAGSTER_POSTGRES_URL": starting.postgres,
            "TXN_BROKER_URL": starting.valkey,
            "GENERATOR_URL": starting.generator,
            "AWS_BUCKET_NAME": starting.s3,
        }
        # All of them start at once.
        ready = [start() for variable, start in own.items() if variable not in given]
        for wait in ready:
            wait()
        addresses = {
            "bucket": _bucket_in(environment),
            "source": environment["GENERATOR_URL"],
            "Postgres": _without_password(environment["DAGSTER_POSTGRES_URL"]),
            "broker": _without_password(environment["TXN_BROKER_URL"]),
            "logs": str(starting.logs),
        }
        own_bucket = "AWS_BUCKET_NAME" not in given
        processes = tuple(starting.processes)
        yield Cluster(addresses, environment, processes, home, lock, own_bucket)


class _Starting:
    """Starts servers of the cluster.

    Each method starts one, adds its variables to the environment, and returns a function that waits
    until it is ready.
    """

    def __init__(self, state: Path, lock: int, running: ExitStack) -> None:
        self.environment: dict[str, str] = {}
        self.processes: list[ManagedProcess] = []
        self.logs = state / "logs"
        self.logs.mkdir(exist_ok=True)
        self._state = state
        self._lock = lock
        self._running = running
        self._ports = _kept_ports(state / "ports.json")
        self._secrets = kept_secrets(
            state / "secrets.json",
            # Two passwords, and the key of cursors.
            dict.fromkeys(("postgres", "valkey", "cursors"), 24),
            f"does not hold the passwords of the cluster's servers: remove {state} to begin again,"
            " with its history and its lake",
        )

    def postgres(self) -> Callable[[], None]:
        server = Postgres.start(
            self._state / "postgres",
            self.logs / "postgres.log",
            port=self._ports["postgres"],
            password=self._secrets["postgres"],
            holds=[self._lock],
        )
        self._add(server.process)
        self.environment["DAGSTER_POSTGRES_URL"] = server.url
        return server.wait

    def valkey(self) -> Callable[[], None]:
        server = Valkey.start(
            self._state / "valkey",
            self.logs / "valkey.log",
            port=self._ports["valkey"],
            password=self._secrets["valkey"],
            holds=[self._lock],
        )
        self._add(server.process)
        self.environment["TXN_BROKER_URL"] = server.url
        return server.wait

    def generator(self) -> Callable[[], None]:
        # The generator of the cluster needs no token, and must not get that of another.
        self.environment["GENERATOR_TOKEN"] = ""  # nosec B105 # none
        given = {*map(str.lower, os.environ), *env_file_variables()}
        defaults = {
            "GENERATOR_WORKERS": "2",
            # A cursor is valid after a restart, too.
            "GENERATOR_CURSOR_KEY": self._secrets["cursors"],
        }
        own = {name: value for name, value in defaults.items() if name.lower() not in given}
        server = start_generator(
            port=None if "generator_port" in given else self._ports["generator"],
            log=self.logs / "generator.log",
            environment={**os.environ, **self.environment, **own},
            holds=[self._lock],
        )
        self._add(server)

        def wait() -> None:
            self.environment["GENERATOR_URL"] = generator_url(server)

        return wait

    def s3(self) -> Callable[[], None]:
        server = self._running.enter_context(start_s3(self._state, self.logs, self._lock))
        self.processes.append(server.process)
        self.environment |= s3_environment(self._state, server)
        # Without a profile here, the platform would use that of .env.
        profiles = self._state / "aws-config"
        profiles.write_text("[default]\n", "ascii")
        self.environment |= {
            "AWS_CONFIG_FILE": str(profiles),
            "AWS_PROFILE": "default",
            "AWS_DEFAULT_PROFILE": "default",
        }
        return lambda: None

    def _add(self, process: ManagedProcess) -> None:
        self.processes.append(self._running.enter_context(process))


@contextmanager
def cluster_dagster(
    servers: Cluster, port: int, modules: Sequence[str], *, workers: int
) -> Generator[Cluster]:
    """Run Dagster's code server, daemon and webserver, and workers, beside the servers.

    Other commands with this `TXN_HOME` use the cluster until the block ends. Then the workers have
    30 seconds to end the windows that they run.

    Args:
        servers: that run.
        port: of Dagster's UI.
        modules: with the definitions that Dagster loads.
        workers: how many; each runs one window at a time.

    Raises:
        ProcessFailed: one of them did not start.
    """
    address = f"http://127.0.0.1:{port}"
    settings = load_settings()
    opened = settings.ui_url if "ui_url" in settings.model_fields_set else address
    variables = {
        **servers.environment,
        "TXN_UI_URL": opened,
        "DAGSTER_WEBSERVER_URL": address,
        # As many as the workers run.
        "TXN_MAX_CONCURRENT_RUNS": str(workers),
    }
    # The boto3 of dagster_aws takes an empty variable for a profile or a file without a name.
    environment = {
        name: value
        for name, value in {**os.environ, **variables}.items()
        if value or not name.startswith("AWS_")
    }
    logs = servers.state / "logs"
    with ExitStack() as running:
        started = running.enter_context(
            dagster_processes(
                environment,
                logs,
                port=port,
                address=opened,
                modules=modules,
                holds=[servers.lock],
            )
        )
        crew = [
            running.enter_context(_worker(number, environment, logs, servers.lock))
            for number in range(1, workers + 1)
        ]
        running.callback(_stop_together, [*started, *crew])
        for worker in crew:
            worker.wait_until(lambda worker=worker: " ready." in worker.output(), timeout=180)
        running.callback(withdraw, servers.home)
        addresses = {**servers.addresses, "Dagster": address}
        addresses["passwords"] = str(
            announce_cluster(servers.home, addresses, variables, own_bucket=servers.own_bucket)
        )
        processes = (*servers.processes, *started, *crew)
        yield replace(servers, addresses=addresses, environment=variables, processes=processes)


def _worker(number: int, environment: dict[str, str], logs: Path, lock: int) -> ManagedProcess:
    """Start a worker: a Celery worker with one process that runs windows, one after the other."""
    return ManagedProcess(
        f"Worker {number}",
        [
            *(sys.executable, "-m", "celery", "--app", "txn_platform.workers.app", "worker"),
            *("--concurrency", "1"),
            *("--hostname", f"worker-{number}@%h"),
            *("--loglevel", "INFO"),
            # Workers have nothing to tell each other.
            *("--without-gossip", "--without-mingle"),
        ],
        log=logs / f"worker-{number}.log",
        environment=environment,
        holds=[lock],
        grace=GRACE,
        # Its processes end their windows first.
        stop_signal=signal.SIGTERM,
    )


def _stop_together(processes: Iterable[ManagedProcess]) -> None:
    threads = [threading.Thread(target=process.stop) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} cannot be imported: run pip install"
            " 'txn-platform[cluster,clusterserver,s3server]'"
        )


def _given(settings: Settings) -> dict[str, str]:
    """The variables of the servers that settings name, for the processes of the cluster.

    Raises:
        UserError: one of them does not answer, or the lake is a directory.
    """
    if settings.lake_directory is not None:
        raise UserError(
            "TXN_LAKE_DIRECTORY names a directory, and the workers of a cluster need a bucket:"
            " unset it, and set AWS_BUCKET_NAME to use a bucket of yours"
        )
    found: dict[str, str | SecretStr | Path | None] = {
        "DAGSTER_POSTGRES_URL": settings.postgres_url,
        "TXN_BROKER_URL": settings.broker_url,
        "GENERATOR_URL": settings.generator_url,
    }
    if settings.generator_url is not None:
        found["GENERATOR_TOKEN"] = settings.source_token
    if settings.bucket is not None:
        # Dagster reads no .env.
        found |= {
            "AWS_BUCKET_NAME": settings.bucket,
            "AWS_ACCESS_KEY_ID": settings.access_key_id,
            "AWS_SECRET_ACCESS_KEY": settings.secret_access_key,
            "AWS_SESSION_TOKEN": settings.session_token,
            "AWS_REGION": settings.region,
            "AWS_ENDPOINT_URL_S3": settings.endpoint_url,
            "AWS_PROFILE": settings.profile,
            "AWS_CA_BUNDLE": settings.ca_bundle,
        }
    given = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in found.items()
        if value is not None
    }
    if "DAGSTER_POSTGRES_URL" in given:
        _require_postgres(given["DAGSTER_POSTGRES_URL"])
    if "TXN_BROKER_URL" in given:
        _require_broker(given["TXN_BROKER_URL"])
    return given


def _require_postgres(url: str) -> None:
    import psycopg2

    # Scheme and driver are SQLAlchemy's.
    address = f"postgresql://{url.partition('://')[2]}"
    try:
        psycopg2.connect(address, connect_timeout=10).close()
    except psycopg2.Error as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the database of DAGSTER_POSTGRES_URL cannot be used: {reason}") from None


def _require_broker(url: str) -> None:
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=10) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise UserError(f"the broker of TXN_BROKER_URL cannot be used: {error}") from None


def _bucket_in(environment: dict[str, str]) -> str:
    endpoint = environment.get("AWS_ENDPOINT_URL_S3")
    bucket = f"s3://{environment['AWS_BUCKET_NAME']}"
    return f"{bucket} at {_without_password(endpoint)}" if endpoint else bucket


def _without_password(url: str) -> str:
    """Scheme, host, port and path of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _first_hour(settings: Settings, state: Path, given: dict[str, str]) -> str:
    """The first partition: of a bucket of the settings, theirs, else as for a local stack."""
    if "AWS_BUCKET_NAME" in given:
        return Window(settings.first_hour).partition_key
    if not seaweedfs.available():
        raise UserError(
            "SeaweedFS is not installed: run pip install 'txn-platform[s3server]' (Linux on x86-64"
            " or ARM64, macOS), or name a bucket by AWS_BUCKET_NAME and add --use-settings"
        )
    return first_hour(settings, state, state / "seaweedfs")


def _kept_ports(path: Path) -> dict[str, int]:
    """The ports of the last start, so that addresses stay; new ones for those that are not free."""
    last: dict[str, int] = {}
    with suppress(OSError, ValueError):
        last = json.loads(path.read_text("utf-8"))
    ports = {name: last[name] for name in _SERVERS if name in last and port_is_free(last[name])}
    if missing := [name for name in _SERVERS if name not in ports]:
        ports |= zip(missing, free_ports(len(missing)), strict=True)
        path.write_text(json.dumps(ports), "utf-8")
    return ports
