"""The local stack: a source, an S3 and the Dagster UI on one machine, all under `TXN_HOME`.

For `txn dev` and `txn demo`. Running a process belongs in `processes`, the options of SeaweedFS in
`seaweedfs`, and the output of the commands in `cli`.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import secrets
import shutil
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NoReturn

from txn_platform.addresses import require_dagster_home
from txn_platform.card_key import card_key_for_processes
from txn_platform.errors import UserError
from txn_platform.homes import writable_home
from txn_platform.local import seaweedfs
from txn_platform.local.in_use import STACK_BUCKET
from txn_platform.local.processes import (
    ManagedProcess,
    generator_url,
    port_is_free,
    start_generator,
)
from txn_platform.network import without_proxy_for_loopback
from txn_platform.private_files import write_private
from txn_platform.running_stack import LOCK, S3_KEYS, announce, running_stack, withdraw
from txn_platform.settings import load_settings
from txn_platform.windows import Window, full_hour

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from txn_platform.settings import Settings

# Configuration of Dagster's instance. A checkout's own `dagster.yaml` is a link to this file.
DAGSTER_YAML: Final = Path(__file__).with_name("dagster.yaml")
# How far before its first start a new stack's partitions begin.
_BACK: Final = timedelta(days=30)
# Variables for other stores.
_HIDDEN: Final = (
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CA_BUNDLE",
)
_NO_PROFILES: Final = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass(frozen=True)
class Services:
    """The services that run.

    Attributes:
        addresses: addresses that a person may want to open, by name.
        environment: the variables that make the platform use the services. An empty value hides
            one of the machine's environment.
        processes: the servers.
        home: the directory of their state, `TXN_HOME`.
        lock: the descriptor of the lock on it, for further processes to hold.
    """

    addresses: dict[str, str]
    environment: dict[str, str]
    processes: tuple[ManagedProcess, ...]
    home: Path
    lock: int

    def wait(self) -> None:
        """Return on Ctrl-C.

        Raises:
            ProcessFailed: one of the processes has ended.
        """
        with suppress(KeyboardInterrupt):
            while True:
                for process in self.processes:
                    process.check()
                time.sleep(0.5)


@contextmanager
def local_stack_services(*, directory: bool = False) -> Generator[Services]:
    """Run a generator and an S3 server with a bucket.

    They end with the block, and with this process in whatever way it ends. SIGTERM leaves the block
    as Ctrl-C does. Stored objects and the S3's keys and address stay for the next start. Other
    commands with this `TXN_HOME` use them meanwhile, unless their settings name another lake.

    Args:
        directory: use a lake in a directory, as is done where SeaweedFS is not installed.

    Raises:
        UserError: another local stack runs with this `TXN_HOME`, or a port is taken.
        ProcessFailed: one of them did not start.
    """
    settings = load_settings()
    home = _home(settings)
    with ExitStack() as running:
        running.enter_context(_sigterm_exits())
        lock = running.enter_context(_lock(home))
        logs = home / "logs"
        logs.mkdir(exist_ok=True)
        s3_is_used = not directory and seaweedfs.available()
        first_hour = _first_hour(settings, home, home / ("seaweedfs" if s3_is_used else "lake"))
        # Without a port the generator uses GENERATOR_PORT. It starts while the S3 does.
        generator = running.enter_context(
            start_generator(
                port=None if os.environ.get("GENERATOR_PORT") else 0,
                log=logs / "generator.log",
                holds=[lock],
            )
        )
        processes = [generator]
        # The same key for both kinds of lake, so that a card keeps its token.
        environment = {
            "AWS_BUCKET_NAME": "",
            "TXN_LAKE_DIRECTORY": "",
            "TXN_CARD_KEY": card_key_for_processes(settings),
            "DAGSTER_HOME": str(_dagster_home(home)),
            # The generator of the stack needs no token, and must not get that of another.
            "GENERATOR_TOKEN": "",  # nosec B105 # none
            **without_proxy_for_loopback(),
        }
        announced = {"TXN_FIRST_HOUR": first_hour}
        if s3_is_used:
            s3 = running.enter_context(_s3(home, logs, lock))
            processes.append(s3.process)
            environment |= _variables_of(s3) | dict.fromkeys(_HIDDEN, "") | _NO_PROFILES
            environment |= _kept_keys(home / S3_KEYS)
            announced |= _variables_of(s3)
            addresses = {
                "S3": s3.endpoint_url,
                "bucket": STACK_BUCKET,
                "keys": str(home / S3_KEYS),
            }
        else:
            addresses = {"lake": str(home / "lake")}
        announced["GENERATOR_URL"] = addresses["generator"] = generator_url(generator)
        addresses["logs"] = str(logs)
        environment |= announced
        running.enter_context(_announced(home, announced))
        yield Services(addresses, environment, tuple(processes), home, lock)


@contextmanager
def local_stack_lake() -> Generator[None]:
    """Serve the lake of the local stack, for commands that are told to use it.

    Nothing is started if a local stack runs.

    Raises:
        UserError: no local stack has stored anything under this `TXN_HOME`.
        ProcessFailed: the S3 did not start.
    """
    settings = load_settings()
    home = settings.home.absolute()
    if running_stack(home) is not None:
        yield
        return
    if not (home / "seaweedfs").exists() or not seaweedfs.available():
        raise UserError(
            f"no local stack has left an S3 in {home}: `txn demo` makes one, and `txn demo"
            " --directory` writes to a directory, which commands use without --lake"
        )
    with ExitStack() as running:
        running.enter_context(_sigterm_exits())
        lock = running.enter_context(_lock(home))
        logs = home / "logs"
        logs.mkdir(exist_ok=True)
        first_hour = _first_hour(settings, home, home / "seaweedfs")
        s3 = running.enter_context(_s3(home, logs, lock))
        variables = {"TXN_FIRST_HOUR": first_hour, **_variables_of(s3)}
        running.enter_context(_announced(home, variables))
        yield


def require_ui(port: int, modules: Sequence[str]) -> None:
    """Check, before anything starts, what the Dagster UI needs.

    Raises:
        UserError: the port is taken, or a module is not there.
    """
    if not port_is_free(port):
        raise UserError(f"Port {port} is in use: choose another for the Dagster UI (--port).")
    for module in modules:
        if not _can_be_imported(module):
            raise UserError(
                f"there is no module {module} in {Path.cwd()} or among the installed packages:"
                " name the module with your definitions, as -m mine for mine.py"
            )


def _can_be_imported(module: str) -> bool:
    names = module.split(".")
    if not all(map(str.isidentifier, names)):
        return False
    # Dagster looks in the working directory first.
    path = Path(*names)
    if path.with_suffix(".py").is_file() or path.is_dir():
        return True
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


@contextmanager
def local_ui(services: Services, port: int, modules: Sequence[str]) -> Generator[Services]:
    """Run Dagster's UI and daemon beside the services.

    Args:
        services: that run.
        port: of the UI.
        modules: with the definitions that Dagster loads.

    Raises:
        ProcessFailed: it did not start.
    """
    address = f"http://127.0.0.1:{port}"
    settings = load_settings()
    opened = settings.ui_url if "ui_url" in settings.model_fields_set else address
    # As `dagster dev` starts its processes, but for the webserver, which checks who asks.
    environment = {
        **os.environ,
        **services.environment,
        "TXN_UI_URL": opened,
        "DAGSTER_IS_DEV_CLI": "1",
    }
    started: list[ManagedProcess] = []
    with ExitStack() as running:

        def start(name: str, log: str, *arguments: str) -> ManagedProcess:
            process = ManagedProcess(
                name,
                [sys.executable, "-m", *arguments],
                log=services.home / "logs" / f"{log}.log",
                environment=environment,
                holds=[services.lock],
                # Time to finish their work.
                grace=30,
            )
            started.append(running.enter_context(process))
            return process

        # For this user alone: who reaches a code server's socket can run code.
        directory = Path(running.enter_context(TemporaryDirectory(prefix="txn-dev-")))
        sockets = {module: directory / f"{n}.sock" for n, module in enumerate(modules)}
        for number, (module, socket) in enumerate(sockets.items()):
            command = ["dagster", "code-server", "start", "--module-name", module]
            command += ["--socket", str(socket), "--use-python-environment-entry-point"]
            command += ["--log-level", "warning", "--inject-env-vars-from-instance"]
            server = start("Dagster's code server", f"dagster-code-{number}", *command)
            # One after another: the first one makes Dagster's databases.
            server.wait_until(socket.is_socket, timeout=180)
        workspace = directory / "workspace.yaml"
        workspace.write_text(_workspace(sockets), "utf-8")
        start("Dagster's daemon", "dagster-daemon", "dagster._daemon", "run", "-w", str(workspace))
        webserver = ["txn_platform.webserver", str(workspace), str(port), opened]
        start("Dagster's webserver", "dagster-webserver", *webserver).wait_until(
            lambda: _answers(port, "/server_info"), timeout=180
        )
        yield replace(
            services,
            addresses={**services.addresses, "Dagster": address},
            processes=(*services.processes, *started),
        )


def _workspace(sockets: dict[str, Path]) -> str:
    """Dagster's workspace file for code servers, by the module that each one loads."""
    locations = [
        {"grpc_server": {"socket": str(socket), "location_name": module}}
        for module, socket in sockets.items()
    ]
    # JSON is YAML.
    return json.dumps({"load_from": locations})


def _home(settings: Settings) -> Path:
    """`TXN_HOME`, in which Dagster can keep its databases."""
    try:
        require_dagster_home(settings.home)
    except ValueError as error:
        raise UserError(f"TXN_HOME {error}") from None
    return writable_home(settings)


def _first_hour(settings: Settings, home: Path, lake: Path) -> str:
    """The first partition: as the settings say, or as it was when the stack was new.

    A new stack begins 30 days back. One of an earlier version begins where all do by default.
    """
    kept = home / "first-hour"
    new = not (home / "dagster").exists() and not lake.exists()
    if "first_hour" in settings.model_fields_set:
        return Window(settings.first_hour).partition_key
    try:
        if not kept.exists():
            start = full_hour(datetime.now(UTC)) - _BACK if new else settings.first_hour
            draft = kept.with_suffix(".draft")
            draft.write_text(Window(start).partition_key)
            draft.replace(kept)
        return Window.of_partition(kept.read_text("ascii").strip()).partition_key
    except (OSError, ValueError, UserError):
        raise UserError(
            f"{kept} does not hold the first hour of the local stack: write it there, as"
            " 2026-01-01-00:00, or set TXN_FIRST_HOUR"
        ) from None


def _dagster_home(home: Path) -> Path:
    """The directory of the stack's Dagster, with its configuration."""
    dagster_home = home / "dagster"
    configuration = dagster_home / "dagster.yaml"
    if not configuration.exists():
        dagster_home.mkdir(exist_ok=True)
        # Renamed when complete: a partial file of a killed start would stay forever.
        draft = configuration.with_suffix(".draft")
        shutil.copyfile(DAGSTER_YAML, draft)
        draft.replace(configuration)
    return dagster_home


def _s3(home: Path, logs: Path, lock: int) -> seaweedfs.SeaweedFS:
    keys = _kept_keys(home / S3_KEYS)
    return seaweedfs.SeaweedFS.start(
        home / "seaweedfs",
        logs / "seaweedfs",
        bucket=STACK_BUCKET,
        access_key=keys["AWS_ACCESS_KEY_ID"],
        secret_key=keys["AWS_SECRET_ACCESS_KEY"],
        holds=[lock],
    )


def _variables_of(s3: seaweedfs.SeaweedFS) -> dict[str, str]:
    """The variables that lead to an S3, without its keys."""
    return {
        "AWS_BUCKET_NAME": STACK_BUCKET,
        "AWS_REGION": seaweedfs.REGION,
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        # Takes precedence.
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "TXN_S3_ADDRESSING": "path",
    }


@contextmanager
def _announced(home: Path, variables: dict[str, str]) -> Generator[None]:
    announce(home, variables)
    try:
        yield
    finally:
        withdraw(home)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _sigterm_exits() -> Generator[None]:
    def leave(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _lock(home: Path) -> Generator[int]:
    """Lock the state directory, and yield the descriptor of the lock.

    The managed processes hold the lock too. After their owner was killed they end within seconds;
    this waits for them.
    """
    try:
        file = (home / LOCK).open("a+", encoding="ascii")
    except OSError as error:
        raise UserError(
            f"{home} cannot be used for state ({error.strerror}): set TXN_HOME to a directory "
            "that can be written."
        ) from None
    with file:
        deadline = time.monotonic() + 15
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read()
                if _runs(holder) or time.monotonic() > deadline:
                    raise UserError(
                        f"`txn dev` or `txn demo` is already running in {home} (process {holder}):"
                        " stop it, or set TXN_HOME to another directory."
                    ) from None
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        # A killed stack could not.
        withdraw(home)
        yield file.fileno()


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _kept_keys(path: Path) -> dict[str, str]:
    """The keys in a file, by variable. The file is created if it is missing."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if not path.exists():
        keys = (secrets.token_hex(10), secrets.token_hex(20))
        write_private(path, json.dumps(dict(zip(names, keys, strict=True))))
    try:
        kept: dict[str, str] = json.loads(path.read_text())
        return {name: kept[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} does not hold the keys of the S3 server: delete it. New keys are made; what "
            "is stored stays."
        ) from None
