"""The image of `deploy/Dockerfile`, made and started without a container engine.

`make image-check` runs this: it needs root, Debian's debootstrap and the package index.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from txn_platform_tests.support import image, image_processes

# Peaks that the limits of compose.yaml, Kubernetes and ECS leave room for, in MB.
_LARGEST = {"generator": 1200, "worker": 1000}
_OTHERS = 600

pytestmark = pytest.mark.image


def test_the_processes_of_compose_run_a_window_from_the_image() -> None:
    assert os.geteuid() == 0, "make image-check runs as root"
    # Beside the suite's own directories: two root file systems of a gigabyte.
    with TemporaryDirectory(prefix="txn-image-", dir="/var/tmp") as name:
        directory = Path(name)
        base = image.debian(directory / "base")
        stage = image.Builder(base, directory).build()
        help_text = image.output(stage.root, "/opt/txn/bin/txn", "--help")
        assert "Usage: txn" in help_text
        namespace = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        done = subprocess.run(
            [
                *(*namespace, "--mount-proc", sys.executable, "-m", image_processes.__name__),
                *(str(stage.root), json.dumps(stage.environment)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        peaks = json.loads(done.stdout)
        sys.stderr.write(f"peaks of memory in MB: {done.stdout}\n")
        for service, peak in peaks.items():
            assert 50 < peak < _LARGEST.get(service, _OTHERS), service
