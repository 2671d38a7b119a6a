"""Dagster's webserver for `txn dev`, behind a check of who sends a request.

The webserver of `dagster dev` runs what a page of any site sends it. This one serves the same app,
and refuses that: `local/same_origin.py`. `local/stack.py` starts it as a process.
"""

from __future__ import annotations

import sys

import uvicorn
from dagster import DagsterInstance

# There is no public way to the webserver's app; its own command takes the same one.
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__

from txn_platform.local.same_origin import SameOrigin

# As the command `dagster-webserver` has it.
_POLL_MILLISECONDS = 2000
_STATEMENT_MILLISECONDS = 15_000
_RECYCLE_SECONDS = 3600
_OVERFLOW = 20
# Pages keep a websocket open.
_STOP_SECONDS = 5


def serve(workspace: str, port: int, address: str) -> None:
    """Serve Dagster's UI on 127.0.0.1 until SIGTERM.

    Args:
        workspace: the path of the workspace file.
        port: of the UI.
        address: of the UI, as its users open it.
    """
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _OVERFLOW)
        with WorkspaceProcessContext(
            instance, WorkspaceFileTarget([workspace]), version=__version__
        ) as context:
            app = create_app_from_workspace_process_context(
                context, live_data_poll_rate=_POLL_MILLISECONDS
            )
            uvicorn.run(
                SameOrigin(app, address),
                host="127.0.0.1",
                port=port,
                log_level="warning",
                timeout_graceful_shutdown=_STOP_SECONDS,
            )


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
