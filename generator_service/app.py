"""The service as an ASGI application: routes, middleware, problems, /docs and its description."""

import asyncio
import copy
import json
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, cast, override

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from generator_service import connections, faults, models, wire
from generator_service.access import Access
from generator_service.defects import describe, parse_drifts
from generator_service.html_style import ICON, content_policy
from generator_service.keys import KeysError, KeysFile, KnownKeys
from generator_service.metrics import Metrics
from generator_service.middleware import AnswerHead, DescribeResponse, LogFailures, Measure
from generator_service.routes import router
from generator_service.settings import Settings, SettingsError
from generator_service.simulator import VERSION, Window
from generator_service.source import Source, clock

_REFRESH_SECONDS = 1
_DOCS = "/docs"
_SWAGGER_FILES = f"{_DOCS}/swagger"
_DESCRIPTION = "/openapi.json"
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
# Every route answers GET, and HEAD as GET.
_ALLOW = {"Allow": "GET, HEAD"}


async def _refuse(request: Request, error: Exception) -> Response:
    """Return the problem of an error; an error that the client did not cause is a 500."""
    problem = _problem(request, error)
    headers = dict(error.headers) if isinstance(error, models.RequestError) else {}
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers |= _ALLOW
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        # uvicorn closes the connection after it. A client that is not told would send its next
        # request into it.
        headers["Connection"] = "close"
    return Response(
        problem.model_dump_json(),
        problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


def _problem(request: Request, error: Exception) -> models.Problem:
    match error:
        case models.RequestError():
            return error.problem
        case RequestValidationError():
            errors = models.field_errors(error.errors())
            return models.problem(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
        case HTTPException(status_code=HTTPStatus.METHOD_NOT_ALLOWED):
            wrong = models.FieldError(field="method", given=request.method, expected="GET")
            return models.problem(HTTPStatus.METHOD_NOT_ALLOWED, [wrong])
        case HTTPException():
            paths = [route.path for route in router.routes if isinstance(route, Route)]
            expected = models.nearest(request.url.path, paths, "an address that /docs lists")
            wrong = models.FieldError(field="path", given=request.url.path, expected=expected)
            return models.problem(HTTPStatus.NOT_FOUND, [wrong])
        case _:
            return models.problem(HTTPStatus.INTERNAL_SERVER_ERROR, [])


class _Service(FastAPI):
    _described: tuple[object, dict[str, Any]] | None = None

    @override
    def build_middleware_stack(self) -> ASGIApp:
        """Put around everything, errors too, what applies to every response."""
        measured = Measure(
            super().build_middleware_stack(),
            metrics=self.state.metrics,
            log=self.state.settings.access_log,
        )
        return AnswerHead(DescribeResponse(measured))

    @override
    def openapi(self) -> dict[str, Any]:
        """Add what FastAPI cannot describe: examples, drifts, faults, the problems' media type."""
        now, drifts = self.state.now(), parse_drifts(self.state.settings.drift)
        decided_by = self.state.keys.required(), sum(drift.since <= now for drift in drifts)
        # Kept: many requests for it would take all time from the others.
        if self._described is None or self._described[0] != decided_by:
            self._described = decided_by, self._describe(now)
        return self._described[1]

    def _describe(self, now: int) -> dict[str, Any]:
        description = copy.deepcopy(super().openapi())
        settings, needs_keys = self.state.settings, self.state.keys.required()
        # With keys, rows are for those who have one.
        if not needs_keys:
            _add_examples_of_rows(description, self.state.source)
            _leave_out_keys(description)
        _add_examples(description)
        transaction = description["components"]["schemas"]["Transaction"]
        describe(transaction, parse_drifts(settings.drift), now)
        faults.describe(description, settings.faults)
        for path in description["paths"].values():
            for operation in path.values():
                _describe_bounds(operation, settings)
                _describe_refusals(operation)
                for status, response in operation["responses"].items():
                    content = response.get("content", {})
                    if not status.startswith("2") and "application/json" in content:
                        content["application/problem+json"] = content.pop("application/json")
        return description


def _leave_out_keys(description: dict[str, Any]) -> None:
    description["components"].pop("securitySchemes")
    for path in description["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
            for status in ("401", "429"):
                operation["responses"].pop(status, None)


def _describe_refusals(operation: dict[str, Any]) -> None:
    """Add the statuses of requests that the connection refuses before anything reads them."""
    refusals = {HTTPStatus.BAD_REQUEST: "It is no request of HTTP.", **connections.REASONS}
    for status, reason in refusals.items():
        response = operation["responses"].setdefault(str(status.value), {"description": reason})
        response.setdefault("content", {})["text/plain"] = {"schema": {"type": "string"}}


def _describe_bounds(operation: dict[str, Any], settings: Settings) -> None:
    """Add the bounds that the settings of the service decide."""
    for parameter in operation.get("parameters", ()):
        match parameter["name"]:
            case "limit":
                parameter["schema"]["anyOf"][0] |= {"minimum": 1, "maximum": settings.max_limit}
            case "end":
                parameter["description"] += (
                    f"; after the start, and at most {settings.max_window_hours} hours"
                )
            case _:
                pass


def _add_examples(description: dict[str, Any]) -> None:
    """Repeat examples of parameters where Swagger UI finds them: it leaves `examples` out."""
    for path in description["paths"].values():
        for parameter in path["get"].get("parameters", ()):
            if examples := parameter["schema"].get("examples"):
                parameter["example"] = examples[0]


def _add_examples_of_rows(description: dict[str, Any], source: Source) -> None:
    """Add a row of the service, and its id, as examples."""
    first = source.first_from(models.parse_moment(models.EXAMPLE_MOMENT))
    at = cast("int", first.column("transaction_at")[0].value)
    injector = source.injector(Window(at, at + 1), defects="")
    row = wire.json_items(injector.batches([first], wire.Format.JSON))
    description["components"]["schemas"]["Transaction"]["examples"] = [json.loads(row)]
    for path in description["paths"].values():
        for parameter in path["get"].get("parameters", ()):
            if parameter["name"] == "transaction_id":
                parameter["example"] = first.column("transaction_id")[0].as_py()


def _description(request: Request) -> Response:
    """Return the description. Making it takes up to a second, so a thread does it."""
    description = request.app.openapi()
    if root := request.scope.get("root_path", "").rstrip("/"):
        description = {**description, "servers": [{"url": root}]}
    return JSONResponse(description)


def _swagger_ui(request: Request) -> Response:
    """Return the page of /docs; its files are served by the service, too."""
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(
        openapi_url=f"{root}{_DESCRIPTION}",
        title=request.app.title,
        swagger_js_url=f"{root}{_SWAGGER_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{_SWAGGER_FILES}/swagger-ui.css",
        swagger_favicon_url=ICON,
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    # The scripts of the template; nothing in it comes from the request.
    page.headers.update(content_policy(*_INLINE_SCRIPT.findall(bytes(page.body).decode())))
    return page


async def _refresh(metrics: Metrics) -> None:
    """Let other processes see the gauges of this one, until it is cancelled."""
    while metrics.shared:
        metrics.refresh()
        await asyncio.sleep(_REFRESH_SECONDS)


def create_app(
    settings: Settings, *, now: Callable[[], int] = clock, local: bool = False
) -> FastAPI:
    """Return the service; its simulator is built when it starts.

    Args:
        settings: the settings of the service.
        now: the clock, in microseconds since the epoch.
        local: answer this machine only, without keys, whatever the settings say.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        # Made already if several processes share it.
        if not hasattr(app.state, "source"):
            app.state.source = Source(settings, now)
        app.state.source.warm_up()
        refreshing = asyncio.create_task(_refresh(app.state.metrics))
        yield
        refreshing.cancel()

    app = _Service(
        title="Generator of financial transactions",
        version=VERSION,
        description="Realistic, labelled card and account transactions for any window of time, "
        "the same ones every time they are asked for.",
        lifespan=lifespan,
        # FastAPI's own route makes the description on the event loop; its pages load their files
        # from another host.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # An address with a slash more is another one; a redirect would name the host that a client
        # states.
        redirect_slashes=False,
    )
    app.state.settings, app.state.now = settings, now
    app.state.keys = KnownKeys(
        None if local else KeysFile(settings.keys_path),
        must_exist=settings.keys_file is not None,
    )
    app.state.metrics = Metrics()
    turns = app.state.computations = settings.computations()
    for name, help_, value in (
        ("running", "Computations that have their turn", lambda: turns.running),
        ("queued", "Computations that wait for their turn", lambda: turns.queued),
    ):
        app.state.metrics.gauge(f"generator_computations_{name}", help_, value)
    app.include_router(router)
    app.add_route(_DESCRIPTION, _description, include_in_schema=False)
    if settings.docs:
        app.add_route(_DOCS, _swagger_ui, include_in_schema=False)
        app.mount(_SWAGGER_FILES, StaticFiles(packages=[("fastapi_swagger", "resources")]))
    app.add_middleware(
        faults.FaultsMiddleware, setting=settings.faults, seed=settings.seed, refuse=_refuse
    )
    # Outside of the faults: those that break a connection on purpose are no failures.
    app.add_middleware(LogFailures)
    app.add_middleware(
        Access, known=app.state.keys, is_open=settings.open and not local, refuse=_refuse
    )
    for kind in (models.RequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` for `uvicorn generator_service.app:app` when it is used first."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        made = create_app(Settings.load())
        made.state.keys.required()
    except (SettingsError, KeysError) as error:
        print(f"generator_service: {error}", file=sys.stderr)  # noqa: T201 -- the one message
        raise SystemExit(2) from None
    return made
