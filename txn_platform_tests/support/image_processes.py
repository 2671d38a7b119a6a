"""The processes of `deploy/compose.yaml`, started from an image of `support/image.py`.

Each has the command, the variables and the health check of its service, a read-only root file
system, and its user without capabilities. They share a network of their own without a way out, in
which the names of the services are addresses of loopback. Postgres, Valkey (with the configuration
of compose.yaml) and the S3 are those of the extras `clusterserver` and `s3server`.

    unshare --net --mount --pid --fork --kill-child --mount-proc \
        python -m txn_platform_tests.support.image_processes ROOT

runs one window on a worker, and prints a JSON object: the peak of memory of each service, in MB.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import yaml

from txn_platform.local.postgres import Postgres
from txn_platform.local.postgres import remove as remove_postgres
from txn_platform.local.seaweedfs import SeaweedFS
from txn_platform.local.valkey import server_program
from txn_platform_tests.support.image import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PARTITION = "2026-11-01-00:00"
_PASSWORD = "0123456789abcdef" * 2
_USER = 10001
_HOME = "/var/lib/txn"
_OURS = ("generator", "code-server", "webserver", "viewer", "daemon", "worker")
_LAUNCH = """mutation($partition: String!) {
  launchRun(executionParams: {
    selector: {
      repositoryLocationName: "txn_platform", repositoryName: "__repository__",
      jobName: "land_transactions"
    },
    runConfigData: {},
    executionMetadata: {tags: [{key: "dagster/partition", value: $partition}]}
  }) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
_STATUS = (
    "query($run: ID!) { runOrError(runId: $run) { ... on Run { status tags { key value } } } }"
)
_ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


class Service:
    """A service of compose.yaml, whose container is a chroot.

    Args:
        root: the root file system.
        image: the variables of the image.
        name: of the service.
        service: its part of compose.yaml, without variables of Compose.
        volumes: the directory of `/var/lib/txn`, by service; others have a file system in memory.
    """

    def __init__(
        self,
        root: Path,
        image: Mapping[str, str],
        name: str,
        service: Mapping[str, Any],
        volumes: Mapping[str, Path],
    ) -> None:
        self.name = name
        self.peak = 0.0
        self._root = root
        self._service = service
        self._volume = volumes.get(name)
        given: dict[str, str] = {}
        for file in service.get("env_file", ()):
            lines = (CHECKOUT / "deploy" / file).read_text().splitlines()
            given |= dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
        given |= {key: text for key, text in service["environment"].items() if text is not None}
        self._environment = {**image, **given}
        self._process: subprocess.Popen[str] | None = None

    def command(self, command: list[str]) -> list[str]:
        """Return the command that runs another one in the container of this service."""
        own = f"size=2g,mode=0700,uid={_USER},gid={_USER}"
        home = f"mount -t tmpfs -o {own} tmpfs {self._root}{_HOME}"
        if self._volume is not None:
            home = f"mount --bind {self._volume} {self._root}{_HOME}"
        variables = [f"{key}={text}" for key, text in self._environment.items()]
        inner = ["chroot", str(self._root), "env", "-i", "-C", _HOME, *variables]
        inner += ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
        inner += ["--bounding-set=-all", "--no-new-privs", *command]
        mounts = f"{home} && mount -t tmpfs -o mode=1777 tmpfs {self._root}/tmp"  # noqa: S108 - in the image
        return ["unshare", "--mount", "/bin/sh", "-c", f"{mounts} && exec {shlex.join(inner)}"]

    def run(self, command: list[str] | None = None) -> str:
        """Run a command to its end, by default that of the service, and return its output."""
        inner = command or self._service["command"]
        done = subprocess.run(
            self.command(inner), capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            raise RuntimeError(
                f"{self.name} {inner}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout.strip()

    def start(self, log: Path) -> None:
        """Start the service, and follow its memory."""
        with log.open("w") as file:
            command = self.command(self._service["command"])
            self._process = subprocess.Popen(command, stdout=file, stderr=file, text=True)
        threading.Thread(target=self._follow, args=(self._process.pid,), daemon=True).start()

    def _follow(self, pid: int) -> None:
        with suppress(psutil.Error):
            while True:
                tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                held = 0
                for each in tree:
                    with suppress(psutil.Error):
                        held += each.memory_info().rss
                self.peak = max(self.peak, held / 1e6)
                time.sleep(1)

    def is_healthy(self) -> bool:
        """Whether its health check succeeds.

        Raises:
            RuntimeError: it has ended.
        """
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended")
        if "healthcheck" not in self._service:
            return True
        kind, *command = self._service["healthcheck"]["test"]
        if kind != "CMD":
            raise NotImplementedError(kind)
        with suppress(RuntimeError):
            self.run(command)
            return True
        return False

    def stop(self) -> int:
        """Ask it to end, as an engine does, and return its exit code."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)


def main(root: Path, image: Mapping[str, str]) -> dict[str, float]:
    """Start all processes, run a window, and return the peaks of memory by service."""
    _loopback_up()
    compose: dict[str, Any] = {}
    with ExitStack() as running:
        state = Path(running.enter_context(TemporaryDirectory(prefix="txn-image-")))
        state.chmod(0o711)
        _mount(root, state)
        postgres = Postgres.start(
            state / "postgres", state / "postgres.log", port=5432, password=_PASSWORD
        )
        running.callback(remove_postgres, state / "postgres")
        running.enter_context(postgres.process)
        s3 = running.enter_context(
            SeaweedFS.start(
                state / "s3", state, bucket="lake", access_key="key", secret_key=_PASSWORD
            )
        )
        values = {
            **dict.fromkeys(("POSTGRES_PASSWORD", "BROKER_PASSWORD"), _PASSWORD),
            **dict.fromkeys(("GENERATOR_CURSOR_KEY", "TXN_CARD_KEY"), os.urandom(32).hex()),
            **dict.fromkeys(("OAUTH2_PROXY_CLIENT_SECRET", "OAUTH2_PROXY_COOKIE_SECRET"), "x"),
            "AWS_BUCKET_NAME": "lake",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": _PASSWORD,
            "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
            "TXN_S3_ADDRESSING": "path",
        }
        compose = _compose(values)
        (state / "data").mkdir()
        configuration = compose["configs"]["broker"]["content"].replace("/data", f"{state}/data")
        (state / "valkey.conf").write_text(configuration)
        broker = subprocess.Popen(
            [server_program(), state / "valkey.conf"], stdout=subprocess.DEVNULL, text=True
        )
        running.callback(broker.wait)
        running.callback(broker.terminate)
        postgres.wait()
        volumes = {"generator": state / "generator"}
        volumes["generator"].mkdir(0o700)
        os.chown(volumes["generator"], _USER, _USER)

        def service(name: str) -> Service:
            # They share one network: the second one of port 3000 gets another.
            part = json.loads(json.dumps(compose["services"][name]))
            if name == "viewer":
                part = json.loads(json.dumps(part).replace("3000", "3001"))
            return Service(root, image, name, part, volumes)

        # As docs/deploy.md says.
        add = ["python", "-m", "generator_service", "keys", "add", "platform"]
        compose = _compose(values | {"GENERATOR_TOKEN": service("generator").run(add)})
        service("migrate").run()
        services = {name: service(name) for name in _OURS}
        for name, each in services.items():
            each.start(state / f"{name}.log")
            sys.stderr.write(f"started {name}\n")
            try:
                if name != "daemon":
                    _wait(each.is_healthy, f"{name} is healthy")
            except Exception as error:
                raise RuntimeError((state / f"{name}.log").read_text()[-3000:]) from error
        _wait(services["daemon"].is_healthy, "the daemon is healthy", seconds=180)
        try:
            _run_a_window(s3)
        except Exception as error:
            logs = [(state / f"{name}.log").read_text()[-2000:] for name in ("daemon", "worker")]
            raise RuntimeError("\n".join(logs)) from error
        codes = {name: each.stop() for name, each in reversed(services.items())}
        if any(code not in {0, -signal.SIGTERM, 128 + signal.SIGTERM} for code in codes.values()):
            raise RuntimeError(f"exit codes after SIGTERM: {codes}")
        return {name: each.peak for name, each in services.items()}


def _run_a_window(s3: SeaweedFS) -> None:
    started = _graphql(_LAUNCH, partition=PARTITION)["launchRun"]
    run = started["run"]["runId"]

    def ended() -> bool:
        found.update(_graphql(_STATUS, run=run)["runOrError"])
        return found["status"] in _ENDED

    found: dict[str, Any] = {}
    _wait(ended, "the run ends", seconds=240)
    if found["status"] != "SUCCESS":
        raise RuntimeError(f"the run has ended: {found}")
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        aws_access_key_id="key",
        aws_secret_access_key=_PASSWORD,
        region_name="us-east-1",
    )
    keys = {each["Key"] for each in client.list_objects_v2(Bucket="lake")["Contents"]}
    place = "lake/s3_parquet_transactions/event_date=2026-11-01/event_hour=00/part-0.parquet"
    if place not in keys or not any("dagster-compute-logs" in each for each in keys):
        raise RuntimeError(f"the bucket has {sorted(keys)}")


def _graphql(query: str, **variables: str) -> dict[str, Any]:
    request = urllib.request.Request(
        "http://127.0.0.1:3000/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


def _compose(values: Mapping[str, str]) -> dict[str, Any]:
    """Compose's file with its variables filled in, as Compose does."""
    text = (CHECKOUT / "deploy/compose.yaml").read_text()
    text = re.sub(
        r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}",
        lambda found: values.get(found[1]) or found[2] or "",
        text,
    )
    compose = yaml.safe_load(text)
    for each in compose["services"].values():
        each.setdefault("environment", {})
        for name, value in each["environment"].items():
            # Without a value, that of the environment. Compose turns numbers into text.
            each["environment"][name] = values.get(name) if value is None else str(value)
    return compose


def _mount(root: Path, state: Path) -> None:
    """Make the root read-only, but for what each service mounts, with the services' names."""
    names = " ".join(yaml.safe_load((CHECKOUT / "deploy/compose.yaml").read_text())["services"])
    (state / "hosts").write_text(f"127.0.0.1 localhost {names}\n")
    for command in (
        ("--bind", root, root),
        ("--bind", "/dev", root / "dev"),
        # Celery's semaphores are there.
        ("-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", root / "dev/shm"),
        ("--rbind", "/proc", root / "proc"),
        ("--bind", state / "hosts", root / "etc/hosts"),
        ("-o", "remount,bind,ro", root),
    ):
        subprocess.run(["mount", *command], check=True)


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        up = struct.pack("16sh", b"lo", 0x1 | 0x8 | 0x40)  # IFF_UP, IFF_LOOPBACK, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS


def _wait(condition: Callable[[], bool], what: str, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(1)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))
