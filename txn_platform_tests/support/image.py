"""The image of `deploy/Dockerfile`, made in a clean Debian and started without a container engine.

It carries out the instructions of the Dockerfile one by one: `RUN` by chroot, `COPY` from what
`.dockerignore` leaves. Debian's own Python of the same minor version stands in for the base image.
It needs root, Debian's `debootstrap`, and the package index.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import ChainMap
from dataclasses import dataclass, field
from pathlib import Path

import txn_platform

CHECKOUT = Path(txn_platform.__file__).parents[1]
DOCKERFILE = CHECKOUT / "deploy/Dockerfile"
# How the network of this machine is reached. An engine passes its own settings on likewise.
_NETWORK = re.compile(r"(?i)(https?|no)_proxy|pip_.*|uv_system_certs|ssl_cert_file")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile.

    Attributes:
        name: in capitals.
        text: what follows the name, on one line.
        line: its first line in the file.
    """

    name: str
    text: str
    line: int


@dataclass
class Stage:
    """The result of a stage: a root file system, and what the instructions say of its processes."""

    root: Path
    environment: dict[str, str]
    directory: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


def instructions(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, without comments."""
    found: list[Instruction] = []
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        first = first if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            name, _, rest = " ".join(parts).partition(" ")
            found.append(Instruction(name.upper(), rest.strip(), first))
            parts = []
    return found


def context(checkout: Path = CHECKOUT) -> list[Path]:
    """Return the files that `.dockerignore` lets into the build, relative to the checkout."""
    rules = [
        (line.startswith("!"), re.compile(_pattern(line.removeprefix("!").strip("/"))))
        for line in (checkout / ".dockerignore").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]

    def included(path: str) -> bool:
        # The last rule that fits a path, or a folder above it, decides.
        folders = [path[: cut.start()] for cut in re.finditer("/", path)]
        fits = [keep for keep, rule in rules if any(map(rule.fullmatch, [*folders, path]))]
        return not fits or fits[-1]

    tops = {rule.pattern.partition("/")[0] for keep, rule in rules if keep}
    found: list[Path] = []
    for top in sorted(checkout.iterdir()):
        if not any(re.fullmatch(each, top.name) for each in tops):
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            relative = path.relative_to(checkout)
            if path.is_file() and included(str(relative)):
                found.append(relative)
    return found


def _pattern(rule: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", rule)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, re.escape(part)) for part in parts)


def debian(directory: Path) -> Path:
    """Make a clean Debian 13 with Python 3.13, which stands in for `python:3.13-slim-trixie`."""
    command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
    subprocess.run([*command, "trixie", directory], check=True, stdout=subprocess.DEVNULL)
    (directory / "usr/bin/python").symlink_to("python3")
    for each in (directory / "var/cache/apt/archives").glob("*.deb"):
        each.unlink()
    return directory


class Builder:
    """Carries out a Dockerfile.

    Args:
        base: the root file system that every `FROM` of an image begins with.
        directory: where the stages are put.
    """

    def __init__(self, base: Path, directory: Path) -> None:
        self._base = base
        self._directory = directory
        self._arguments: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}

    def build(self, dockerfile: Path = DOCKERFILE) -> Stage:
        """Carry out all instructions.

        Raises:
            NotImplementedError: an instruction that is not known here.
            CalledProcessError: a `RUN` failed.
        """
        stage: Stage | None = None
        for each in instructions(dockerfile.read_text()):
            sys.stderr.write(f"{each.line:3} {each.name} {each.text[:100]}\n")
            if each.name == "FROM":
                stage = self._begin(each.text)
            elif each.name == "ARG" and stage is None:
                name, _, value = each.text.partition("=")
                self._arguments[name] = value.strip('"')
            elif stage is None:
                raise NotImplementedError(f"line {each.line}: {each.name} before FROM")
            else:
                self._carry_out(each, stage)
        if stage is None:
            raise ValueError("a Dockerfile without FROM")
        return stage

    def _begin(self, text: str) -> Stage:
        image, _, name = self._expanded(text, {}).partition(" AS ")
        minor = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-trixie(@sha256:[0-9a-f]{64})?", image)
        found = output(self._base, "python3", "--version")
        if minor is None or f"Python {minor[1]}." not in found:
            raise NotImplementedError(f"{found.strip()} of Debian can't stand in for {image}")
        root = self._directory / (name or "image")
        subprocess.run(["cp", "-a", "--reflink=auto", self._base, root], check=True)
        # The variables of the base image.
        stage = Stage(
            root, {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
        )
        self._stages[name] = stage
        return stage

    def _carry_out(self, each: Instruction, stage: Stage) -> None:
        text = each.text if each.name == "RUN" else self._expanded(each.text, stage.environment)
        match each.name:
            case "ENV":
                stage.environment |= dict(part.split("=", 1) for part in shlex.split(text))
            case "WORKDIR":
                stage.directory = os.path.join(stage.directory, text)  # noqa: PTH118 - in the image
                (stage.root / stage.directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(shlex.split(text), stage)
            case "RUN":
                _run(stage, text)
            case "USER":
                stage.user = text
            case "CMD":
                stage.command = json.loads(text)
            case "VOLUME":
                stage.volumes = json.loads(text)
            case "LABEL":
                shlex.split(text)
            case _:
                raise NotImplementedError(f"line {each.line}: {each.name}")

    def _copy(self, parts: list[str], stage: Stage) -> None:
        options = [word for word in parts if word.startswith("--")]
        *sources, target = [word for word in parts if not word.startswith("--")]
        into = stage.root / os.path.join(stage.directory, target).lstrip("/")  # noqa: PTH118
        if options:
            (option,) = options
            other = self._stages[option.removeprefix("--from=")]
            (source,) = sources
            into.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", other.root / source.lstrip("/"), into], check=True)
            return
        allowed = context()
        for source in map(Path, sources):
            files = [path for path in allowed if path == source or source in path.parents]
            if not files:
                raise FileNotFoundError(f"{source} is not in the context of the build")
            for path in files:
                inner = path.relative_to(source) if path != source else Path(path.name)
                whole = path == source and not target.endswith(("/", "."))
                destination = into if whole else into / inner
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(CHECKOUT / path, destination)

    def _expanded(self, text: str, environment: dict[str, str]) -> str:
        known = ChainMap(environment, self._arguments)
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda name: known[name[1] or name[2]], text)


def _run(stage: Stage, script: str) -> None:
    """Run a shell script in a root file system, with the machine's network."""
    root = stage.root
    mounts = f"mount --bind /dev {root}/dev && mount -t proc proc {root}/proc"
    for path in ("/etc/resolv.conf", "/etc/ssl/certs"):
        mounts += f" && mount --bind {path} {root}{path}"
    network = {name: text for name, text in os.environ.items() if _NETWORK.fullmatch(name)}
    inner = [
        "env",
        "-i",
        *(f"{name}={text}" for name, text in (network | stage.environment).items()),
    ]
    inner += ["chroot", str(root), "/bin/sh", "-c", f"cd {stage.directory} && {script}"]
    command = f"{mounts} && exec {shlex.join(inner)}"
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", command]
    subprocess.run(unshare, check=True)


def output(root: Path, *command: str) -> str:
    """Run a command of a root file system, as root, and return its output."""
    done = subprocess.run(["chroot", root, *command], check=True, capture_output=True, text=True)
    return done.stdout
