"""The local stack: a source, an S3 and the Dagster UI on one machine, all under `TXN_HOME`.

For `txn dev` and `txn demo`. Running a process belongs in `processes`, the options of SeaweedFS in
`seaweedfs`, and the output of the commands in `cli`.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from txn_platform.card_key import card_key_for_processes
from txn_platform.errors import UserError
from txn_platform.local import seaweedfs
from txn_platform.local.dagster_processes import dagster_processes
from txn_platform.local.in_use import STACK_BUCKET
from txn_platform.local.processes import (
    ManagedProcess,
    generator_url,
    port_is_free,
    start_generator,
)
from txn_platform.local.stack_state import (
    dagster_home_of,
    first_hour,
    s3_environment,
    sigterm_exits,
    start_s3,
    state_home,
    state_lock,
    variables_of,
)
from txn_platform.network import without_proxy_for_loopback
from txn_platform.running_stack import (
    S3_KEYS,
    announce,
    announce_webserver,
    running_stack,
    withdraw,
)
from txn_platform.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

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
    home = state_home(settings)
    with ExitStack() as running:
        running.enter_context(sigterm_exits())
        lock = running.enter_context(state_lock(home))
        logs = home / "logs"
        logs.mkdir(exist_ok=True)
        s3_is_used = not directory and seaweedfs.available()
        first = first_hour(settings, home, home / ("seaweedfs" if s3_is_used else "lake"))
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
            "DAGSTER_HOME": str(dagster_home_of(home, DAGSTER_YAML, keep=True)),
            # The generator of the stack needs no token, and must not get that of another.
            "GENERATOR_TOKEN": "",  # nosec B105 # none
            **without_proxy_for_loopback(),
        }
        announced = {"TXN_FIRST_HOUR": first}
        if s3_is_used:
            s3 = running.enter_context(start_s3(home, logs, lock))
            processes.append(s3.process)
            environment |= s3_environment(home, s3)
            announced |= variables_of(s3)
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
        running.enter_context(sigterm_exits())
        lock = running.enter_context(state_lock(home))
        logs = home / "logs"
        logs.mkdir(exist_ok=True)
        first = first_hour(settings, home, home / "seaweedfs")
        s3 = running.enter_context(start_s3(home, logs, lock))
        variables = {"TXN_FIRST_HOUR": first, **variables_of(s3)}
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
    with dagster_processes(
        environment,
        services.home / "logs",
        port=port,
        address=opened,
        modules=modules,
        holds=[services.lock],
    ) as started:
        announce_webserver(services.home, address)
        yield replace(
            services,
            addresses={**services.addresses, "Dagster": address},
            processes=(*services.processes, *started),
        )


@contextmanager
def _announced(home: Path, variables: dict[str, str]) -> Generator[None]:
    announce(home, variables)
    try:
        yield
    finally:
        withdraw(home)
