"""The local stack: a source, an S3 and the Dagster UI on one machine, all under `TXN_HOME`.

For `txn dev` and `txn demo`. Running a process belongs in `processes`, the options of SeaweedFS in
`seaweedfs`, and the output of the commands in `cli`.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

from txn_platform.addresses import require_dagster_home
from txn_platform.card_key import kept_card_key
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
from txn_platform.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from txn_platform.settings import Settings

# Configuration of Dagster's instance. A checkout's own `dagster.yaml` is a link to this file.
DAGSTER_YAML: Final = Path(__file__).with_name("dagster.yaml")


@dataclass(frozen=True)
class Services:
    """The services that run.

    Attributes:
        addresses: addresses that a person may want to open, by name.
        environment: the variables that make the platform use the services. An empty value hides
            one of the machine's environment.
        processes: the servers.
    """

    addresses: dict[str, str]
    environment: dict[str, str]
    processes: tuple[ManagedProcess, ...]

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
def local_stack_services(
    *, directory: bool = False, ui: bool = False, ui_port: int = 3000
) -> Generator[Services]:
    """Run a generator, an S3 server with a bucket, and a Dagster UI with its daemon.

    They end with the block, and with this process in whatever way it ends. SIGTERM leaves the block
    as Ctrl-C does. Stored objects and the S3's keys and address stay for the next start.

    Args:
        directory: use a lake in a directory, as is done where SeaweedFS is not installed.
        ui: whether to run Dagster.
        ui_port: the port of its UI.

    Raises:
        UserError: another local stack runs with this `TXN_HOME`, or a port is taken.
        ProcessFailed: one of them did not start.
    """
    settings = load_settings()
    if ui:
        _require_ui_can_start(settings, ui_port)
    home = writable_home(settings)
    with ExitStack() as running:
        running.enter_context(_sigterm_exits())
        lock = running.enter_context(_lock(home))
        logs = home / "logs"
        logs.mkdir(exist_ok=True)
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
        given = settings.card_key
        environment = {
            "AWS_BUCKET_NAME": "",
            "TXN_CARD_KEY": given.get_secret_value() if given else kept_card_key(home),
            **without_proxy_for_loopback(),
        }
        if not directory and seaweedfs.available():
            s3, addresses, variables = _start_s3(home, logs, lock)
            processes.append(running.enter_context(s3).process)
            environment |= variables
        else:
            addresses = {"lake": str(home / "lake")}
        addresses["generator"] = environment["GENERATOR_URL"] = generator_url(generator)
        if ui:
            if "ui_url" not in settings.model_fields_set:
                environment["TXN_UI_URL"] = f"http://127.0.0.1:{ui_port}"
            dagster = _start_dagster(home, logs, environment, ui_port, lock)
            processes.append(running.enter_context(dagster))
            addresses["Dagster"] = f"http://127.0.0.1:{ui_port}"
        addresses["logs"] = str(logs)
        yield Services(addresses, environment, tuple(processes))


def running_generator(home: Path) -> str | None:
    """Where the generator of the local stack in a state directory answers; None when none does."""
    try:
        if not _runs((home / "stack.lock").read_text("ascii")):
            return None
        log = (home / "logs" / "generator.log").read_text("utf-8", "replace")
    except (OSError, ValueError):
        return None
    listening = re.search(r"^generator_service listening on (http://\S+)$", log, re.MULTILINE)
    port = urlsplit(listening[1]).port if listening else None
    return listening[1] if listening and port and _answers(port, "/healthz") else None


def _require_ui_can_start(settings: Settings, port: int) -> None:
    """Check Dagster's home and its port before anything starts."""
    try:
        require_dagster_home(settings.home)
    except ValueError as error:
        raise UserError(f"TXN_HOME {error}") from None
    if not port_is_free(port):
        raise UserError(f"Port {port} is in use: choose another for the Dagster UI (--port).")


def _start_s3(
    home: Path, logs: Path, lock: int
) -> tuple[seaweedfs.SeaweedFS, dict[str, str], dict[str, str]]:
    """The S3, its addresses by name, and the variables that make the platform use it."""
    keys = home / "s3-keys.json"
    access_key, secret_key = _kept_keys(keys)
    s3 = seaweedfs.SeaweedFS.start(
        home / "seaweedfs",
        logs / "seaweedfs",
        bucket=STACK_BUCKET,
        access_key=access_key,
        secret_key=secret_key,
        holds=[lock],
    )
    addresses = {"S3": s3.endpoint_url, "bucket": STACK_BUCKET, "keys": str(keys)}
    variables = {
        "AWS_BUCKET_NAME": STACK_BUCKET,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_SESSION_TOKEN": "",
        "AWS_REGION": seaweedfs.REGION,
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        # Takes precedence over AWS_ENDPOINT_URL.
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        # Hide the machine's AWS profiles and certificates.
        "AWS_PROFILE": "",
        "AWS_DEFAULT_PROFILE": "",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CA_BUNDLE": "",
        "TXN_S3_ADDRESSING": "path",
    }
    return s3, addresses, variables


def _start_dagster(
    home: Path, logs: Path, environment: dict[str, str], port: int, lock: int
) -> ManagedProcess:
    dagster_home = home / "dagster"
    configuration = dagster_home / "dagster.yaml"
    if not configuration.exists():
        dagster_home.mkdir(exist_ok=True)
        # Renamed when complete: a partial file of a killed start would stay forever.
        draft = configuration.with_suffix(".draft")
        shutil.copyfile(DAGSTER_YAML, draft)
        draft.replace(configuration)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "txn_platform.definitions"]
    dagster = ManagedProcess(
        "Dagster",
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        log=logs / "dagster.log",
        environment={**os.environ, **environment, "DAGSTER_HOME": str(dagster_home)},
        holds=[lock],
        # Time for its webserver and daemon to finish their work.
        grace=30,
    )
    dagster.wait_until(lambda: _answers(port, "/server_info"), timeout=180)
    return dagster


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
        file = (home / "stack.lock").open("a+", encoding="ascii")
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
        yield file.fileno()


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _kept_keys(path: Path) -> tuple[str, str]:
    """The access key and the secret in a file, which is created if it is missing."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if not path.exists():
        draft = path.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(
            json.dumps(
                dict(zip(names, (secrets.token_hex(10), secrets.token_hex(20)), strict=True))
            )
        )
        draft.replace(path)
    try:
        keys: dict[str, str] = json.loads(path.read_text())
        return keys[names[0]], keys[names[1]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} does not hold the keys of the S3 server: delete it. New keys are made; what "
            "is stored stays."
        ) from None
