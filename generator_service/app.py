"""The routes of the service, and nothing but routes: what is asked for, and what is answered.

Not here: parameters, bodies and problems (`models.py`), how rows are written (`wire.py`), which
rows there are (the simulator).
"""

import copy
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Annotated, Any, Self, override
from urllib.parse import urlencode

import pyarrow as pa
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from generator_service import faults, models, wire
from generator_service.defects import (
    ACCOUNT_SCHEMA,
    Sent,
    Spoiler,
    describe,
    page_of_kinds,
    parse_drifts,
)
from generator_service.models import moment_text
from generator_service.scorecard import measure
from generator_service.settings import Settings, SettingsError
from generator_service.simulator import (
    CODED_SCHEMA,
    PLACED_SCHEMA,
    SCHEMA,
    VERSION,
    ControlTotals,
    Labels,
    Simulator,
    Window,
)
from generator_service.simulator.configuration import FIRST_MOMENT, HOUR
from generator_service.tally import Tallies

# Chunks made ahead of the socket, of 1 to 4 MB each.
_CHUNKS_AHEAD = 4
# Customers and cards are coded where there are about as many rows as customers.
_COLUMNAR = {wire.Format.ARROW, wire.Format.PARQUET}
_CODED_FROM = 200_000
_WARM_UP_ROWS = 1_000
_TOTALS_KEPT = 256
_SCORECARDS_KEPT = 4
_SCORECARD_HOURS = 744
# In the scope of a request that came as HEAD.
_HEAD = "generator_service.head"


def _now() -> int:
    return time.time_ns() // 1_000


class Source:
    """What the routes answer from: a simulator, the settings and a clock."""

    def __init__(self, settings: Settings, now: Callable[[], int]) -> None:
        self.settings = settings
        self.now = now
        self.simulator = Simulator(settings.configuration())
        self.generator = models.Generator(
            version=VERSION, configuration=self.simulator.configuration_hash
        )
        self.headers = {
            "X-Generator-Version": VERSION,
            "X-Generator-Configuration": self.simulator.configuration_hash,
        }
        # What a window sums to never changes, so that it need not be computed twice.
        self._totals = lru_cache(_TOTALS_KEPT)(self.simulator.control_totals)
        self.count = lru_cache(_TOTALS_KEPT)(self.simulator.count)
        self._sent = lru_cache(_TOTALS_KEPT)(self._sum_up)
        self.tallies = Tallies()
        self.scorecard = lru_cache(_SCORECARDS_KEPT)(partial(measure, self.simulator))

    def totals(self, window: Window, as_of: int | None, defects: str | None) -> ControlTotals:
        """Return what a window sums to; what was sent or asked for lately is remembered."""
        if known := self.tallies.of(window, (as_of, defects)):
            return known
        if self.spoiler(window, defects).alters:
            return self.sent(window, as_of, defects).totals
        return self._totals(window, as_of=as_of)

    def sent(self, window: Window, as_of: int | None, defects: str | None) -> Sent:
        """Return what a window sums to as it is sent, from its rows; remembered likewise."""
        return self._sent(window, as_of, defects)

    def _sum_up(self, window: Window, as_of: int | None, defects: str | None) -> Sent:
        return self.spoiler(window, defects).sent(self.rows(window, as_of))

    def rows(
        self,
        window: Window,
        as_of: int | None,
        *,
        position: int = 0,
        stop: int | None = None,
        labels: Labels = "oracle",
        schema: pa.Schema = SCHEMA,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a window from position to stop, None for its end."""
        make = partial(self.simulator.batches, window, as_of=as_of, labels=labels, schema=schema)
        return wire.in_parallel(
            lambda start, stop: make(position=start, stop=stop),
            position,
            self.count(window) if stop is None else stop,
        )

    def warm_up(self) -> None:
        """Make a few rows for nobody, so that the first who asks does not wait for what is lazy."""
        hour = Window(FIRST_MOMENT, FIRST_MOMENT + HOUR)
        few = min(_WARM_UP_ROWS, self.simulator.count(hour))
        batches = wire.text_batches(self.rows(hour, None, stop=few))
        for _ in wire.encode(batches, wire.text_schema(SCHEMA), wire.Format.ARROW):
            pass

    def spoiler(self, window: Window, defects: str | None, schema: pa.Schema = SCHEMA) -> Spoiler:
        """Return what spoils the rows of a window; raises RequestError for unusable defects."""
        try:
            return self.settings.spoiler(window, defects, schema)
        except ValueError as error:
            raise models.refused("defects", defects, str(error)) from None

    def window(self, asked: models.WindowParameters) -> Window:
        """Return the window asked for; raises RequestError when it is backwards or too long."""
        start, end = moment_text(asked.start), moment_text(asked.end)
        if asked.end <= asked.start:
            raise models.refused("end", end, f"a time after start, {start}")
        hours = self.settings.max_window_hours
        if asked.end - asked.start > hours * HOUR:
            raise models.refused("end", end, f"a time at most {hours} hours after start, {start}")
        return Window(asked.start, asked.end)

    def limit(self, asked: models.PageParameters, form: wire.Format) -> int | None:
        """Return the rows a page may have, None for no limit; raises RequestError out of range."""
        limit, most = asked.limit, self.settings.max_limit
        if limit is not None and not 1 <= limit <= most:
            raise models.refused("limit", limit, f"a whole number from 1 to {most}")
        if limit is None and form is wire.Format.JSON:
            return self.settings.default_limit
        return limit


def _source(request: Request) -> Source:
    return request.app.state.source


def _is_head(request: Request) -> bool:
    return bool(request.scope.get(_HEAD))


From = Annotated[Source, Depends(_source)]
# Whether only the head of the answer is asked for, so that nothing need be computed for its body.
HeadOnly = Annotated[bool, Depends(_is_head)]
router = APIRouter(responses={"4XX": {"model": models.Problem, "description": "What to mend"}})


def _rows(model: type[models.BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Describe an answer of rows to OpenAPI: the model is of its JSON."""
    return {200: {"model": model, "content": {kind: {} for kind in wire.MEDIA_TYPES.values()}}}


@dataclass(frozen=True)
class _Page:
    """What a request of rows of a window comes to."""

    form: wire.Format
    window: Window
    position: int
    stop: int
    around: dict[str, str | None]

    @property
    def is_last(self) -> bool:
        """Whether it ends where the window does."""
        return self.around["next"] is None

    @property
    def rows(self) -> int:
        """How many rows the page has, if all have arrived."""
        return self.stop - self.position

    @classmethod
    def of(
        cls, request: Request, asked: models.TransactionParameters, source: Source, route: str
    ) -> Self:
        """Read a request; `route` names it in its cursors."""
        form = models.negotiate(asked.format, request.headers.get("accept"))
        window, limit = source.window(asked), source.limit(asked, form)
        simulator, as_of = source.simulator, asked.as_of
        start, end = moment_text(window.start), moment_text(window.end)
        seen = None if as_of is None else moment_text(as_of)
        answer = {
            "route": route,
            "start": start,
            "end": end,
            "as_of": str(seen),
            "labels": asked.labels,
            "defects": str(asked.defects),
            "configuration": simulator.configuration_hash,
        }
        position = 0 if asked.cursor is None else models.read_cursor(asked.cursor, answer)
        following = None
        stop = whole = source.count(window)
        if limit is not None:
            stop = simulator.advance(window, position, limit, as_of=as_of)
            if stop < whole:
                following = _next(request, models.write_cursor(stop, answer))
        around = {"next": following, "start": start, "end": end, "as_of": seen}
        return cls(form, window, position, stop, around)


@router.get("/v1/transactions", response_class=Response, responses=_rows(models.TransactionPage))
def transactions(
    request: Request,
    asked: Annotated[models.TransactionParameters, Query()],
    source: From,
    head_only: HeadOnly,
) -> Response:
    """Answer with the rows of a window, ordered by time, the same whenever asked.

    JSON gives pages; the other formats stream the whole window, or `limit` rows of it. How many
    there are is in `X-Total-Rows`, but for streams of rows of which some are repeated by request.
    """
    page = _Page.of(request, asked, source, "transactions")
    schema = SCHEMA
    if page.form in _COLUMNAR and page.rows >= _CODED_FROM:
        schema = PLACED_SCHEMA if asked.types is wire.Types.TEXT else CODED_SCHEMA
    spoiler = source.spoiler(page.window, asked.defects, schema)
    counted = None
    is_stream = asked.limit is None and page.form is not wire.Format.JSON
    # The rows of a page are not counted where they have to be, with their copies, beforehand.
    if not spoiler.repeats or (is_stream and page.position == 0):
        counted = partial(
            source.tallies.counted,
            window=page.window,
            key=(asked.as_of, asked.defects),
            start=page.position,
            stop=None if page.is_last else page.stop,
        )
    total = None
    if not spoiler.repeats:
        total = source.count(page.window, as_of=asked.as_of)
    elif counted is None and not head_only:
        total = source.sent(page.window, asked.as_of, asked.defects).totals.rows
    return _answer(
        source,
        asked,
        page.form,
        schema,
        source.rows(
            page.window,
            asked.as_of,
            position=page.position,
            stop=page.stop,
            labels=asked.labels,
            schema=schema,
        ),
        total=total,
        around=page.around,
        spoiler=spoiler,
        counted=counted,
        head_only=head_only,
    )


@router.get(
    "/v1/defects",
    response_class=Response,
    responses=_rows(models.DefectPage),
    description=page_of_kinds(),
)
def defects(
    request: Request,
    asked: Annotated[models.TransactionParameters, Query()],
    source: From,
    head_only: HeadOnly,
) -> Response:
    """Answer with the account of what was spoiled in the same answer of /v1/transactions."""
    page = _Page.of(request, asked, source, "defects")
    spoiler = source.spoiler(page.window, asked.defects)
    first = page.position
    total = None if head_only and spoiler.spoils else 0
    rows: Iterable[pa.RecordBatch] = ()
    if spoiler.spoils and not head_only:
        total = source.sent(page.window, asked.as_of, asked.defects).entries
        rows = source.rows(
            page.window, asked.as_of, position=page.position, stop=page.stop, labels=asked.labels
        )
    if spoiler.repeats and page.position and not head_only:
        first += spoiler.copies(source.rows(page.window, asked.as_of, stop=page.position))
    return _answer(
        source,
        asked,
        page.form,
        ACCOUNT_SCHEMA,
        spoiler.account(rows, first),
        total=total,
        around=page.around,
        head_only=head_only,
    )


@router.get(
    "/v1/transactions/sample",
    response_class=Response,
    responses=_rows(models.TransactionSample),
)
def sample(
    request: Request, asked: Annotated[models.SampleParameters, Query()], source: From
) -> Response:
    """Answer with the most recent transactions up to now, the newest first."""
    form = models.negotiate(asked.format, request.headers.get("accept"))
    window, rows = _recent(source, asked.count)
    return _answer(
        source,
        asked,
        form,
        SCHEMA,
        rows.to_batches(),
        total=rows.num_rows,
        around={},
        spoiler=source.spoiler(window, defects=""),
    )


def _recent(source: Source, rows: int) -> tuple[Window, pa.Table]:
    simulator, now = source.simulator, source.now()
    # Nights are quieter than the mean: look back further until there are enough rows.
    back = 1_000_000 + int(2_000_000 * rows / source.settings.tps)
    window = Window(max(now - back, FIRST_MOMENT), now)
    while (count := simulator.count(window)) < rows and window.start > FIRST_MOMENT:
        back *= 2
        window = Window(max(now - back, FIRST_MOMENT), now)
    newest = simulator.batches(window, position=max(count - rows, 0))
    table = pa.Table.from_batches(newest, SCHEMA)
    return window, table.take(pa.array(range(table.num_rows - 1, -1, -1)))


@router.get(
    "/v1/transactions/{transaction_id}",
    response_class=Response,
    responses={200: {"model": models.OneTransaction}},
)
def transaction(transaction_id: str, source: From) -> Response:
    """Answer with one transaction, found from its id alone."""
    row = source.simulator.transaction(transaction_id)
    if row is None:
        expected = "the id of a transaction of this configuration"
        raise models.missing("transaction_id", transaction_id, expected)
    at = row.column("transaction_at")[0].value
    spoiler = source.spoiler(Window(at, at + 1), defects="")
    item = wire.json_items(spoiler.batches([row], wire.Format.JSON))
    return _json([item], {"generator": source.generator.model_dump()})


@router.get("/v1/control-totals", response_model=models.WindowTotals)
def control_totals(
    asked: Annotated[models.TotalsParameters, Query()], source: From, head_only: HeadOnly
) -> models.WindowTotals | Response:
    """Answer with what a window sums to, so that whoever holds its rows can prove it has them all.

    Of rows that are spoiled: with their copies, by the type as sent ("" without one), over the
    amounts that are plain decimals as sent, of at most 16 digits and two decimals, and with the ids
    as sent (empty without one).

    `ids_digest` is the sum, modulo 2^64, of a state for each id, as 16 hex digits; it does not
    depend on the order, and the digests of parts add up to the whole's. The state of an id: take
    its UTF-8 bytes; state = mix(their number); pad them with zeros to a multiple of 8 and read
    them as little-endian 64-bit words w: state = mix(state xor w), word by word. mix(z), modulo
    2^64: z += 0x9E3779B97F4A7C15; z = (z xor (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z xor (z >> 27)) * 0x94D049BB133111EB; z xor (z >> 31).
    """
    window = source.window(asked)
    if head_only:
        source.spoiler(window, asked.defects)
        return _bodiless("application/json")
    totals = source.totals(window, asked.as_of, asked.defects)
    return models.WindowTotals(
        start=moment_text(window.start),
        end=moment_text(window.end),
        as_of=None if asked.as_of is None else moment_text(asked.as_of),
        rows=totals.rows,
        amount_by_type={name: str(amount) for name, amount in totals.amount_by_type.items()},
        ids_digest=totals.ids_digest,
        generator=source.generator,
    )


@router.get(
    "/v1/scorecard",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/html": {}}}},
)
def scorecard(
    request: Request,
    asked: Annotated[models.ScorecardParameters, Query()],
    source: From,
    head_only: HeadOnly,
) -> Response:
    """Answer with how realistic the rows of a window are, each measure beside its target.

    Takes seconds the first time; the last few answers are remembered.
    """
    end = source.now() // HOUR * HOUR if asked.end is None else asked.end
    start = max(end - _SCORECARD_HOURS * HOUR, FIRST_MOMENT) if asked.start is None else asked.start
    window = source.window(models.WindowParameters.model_construct(start=start, end=end))
    page = "text/html" in request.headers.get("accept", "")
    as_html = asked.format == "html" or (asked.format is None and page)
    kind, headers = "text/html" if as_html else "application/json", {"Vary": "Accept"}
    wanted = "a window with rows in it"
    if head_only:
        if not source.count(window):
            raise models.refused("start", moment_text(start), wanted)
        return _bodiless(kind, headers)
    try:
        card = source.scorecard(window, asked.rows)
    except ValueError:
        raise models.refused("start", moment_text(start), wanted) from None
    content = card.to_html() if as_html else card.to_json()
    return Response(content, media_type=kind, headers=headers)


@router.get("/v1/watermark")
async def watermark(source: From) -> models.Watermark:
    """Answer with the end of the newest complete hour."""
    return models.Watermark(watermark=moment_text(source.now() // HOUR * HOUR))


@router.get(
    "/v1/customers",
    response_class=Response,
    responses=_rows(models.ReferencePage[models.Customer]),
)
def customers(
    request: Request, asked: Annotated[models.PageParameters, Query()], source: From
) -> Response:
    """Answer with the customers: who pays."""
    return _reference(request, asked, source, source.simulator.customers())


@router.get(
    "/v1/cards", response_class=Response, responses=_rows(models.ReferencePage[models.Card])
)
def cards(
    request: Request, asked: Annotated[models.PageParameters, Query()], source: From
) -> Response:
    """Answer with the cards, in clear, each with its owner."""
    return _reference(request, asked, source, source.simulator.cards())


@router.get(
    "/v1/merchants",
    response_class=Response,
    responses=_rows(models.ReferencePage[models.Merchant]),
)
def merchants(
    request: Request, asked: Annotated[models.PageParameters, Query()], source: From
) -> Response:
    """Answer with the merchants: who is paid."""
    return _reference(request, asked, source, source.simulator.merchants())


@router.get("/healthz")
async def healthz(source: From) -> models.Health:
    """Answer that the service is up, and which generator it is."""
    return models.Health(**source.generator.model_dump())


def _reference(
    request: Request,
    asked: models.PageParameters,
    source: Source,
    batches: Iterable[pa.RecordBatch],
) -> Response:
    form = models.negotiate(asked.format, request.headers.get("accept"))
    limit = source.limit(asked, form)
    answer = {
        "route": request.url.path,
        "configuration": source.simulator.configuration_hash,
    }
    position = 0 if asked.cursor is None else models.read_cursor(asked.cursor, answer)
    rows = pa.Table.from_batches(batches)
    page = rows.slice(position, limit)
    stop = position + page.num_rows
    following = None
    if stop < rows.num_rows:
        following = _next(request, models.write_cursor(stop, answer))
    return _answer(
        source,
        asked,
        form,
        rows.schema,
        page.to_batches(),
        total=rows.num_rows,
        around={"next": following},
    )


def _next(request: Request, cursor: str) -> str:
    """Return the address of the next page: this request's, with the cursor in place of its own."""
    query = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
    return f"{request.url.path}?{urlencode([*query, ('cursor', cursor)])}"


def _answer(
    source: Source,
    asked: models.FormatParameters,
    form: wire.Format,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    total: int | None,
    around: dict[str, str | None],
    spoiler: Spoiler | None = None,
    counted: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    head_only: bool = False,
) -> Response:
    """Answer with rows in a format.

    `around` is what JSON says beside them, `total` counts all where that is known already;
    `counted` sees the rows go by as they are sent. No row is made for the head alone.
    """
    headers = {"Vary": "Accept"}
    if total is not None:
        headers["X-Total-Rows"] = str(total)
    if following := around.get("next"):
        headers["Link"] = f'<{following}>; rel="next"'
    if head_only:
        return _bodiless(wire.MEDIA_TYPES[form], headers)
    if counted is not None and not (spoiler and spoiler.alters):
        batches = counted(batches)
    sent: Iterable[pa.RecordBatch | wire.Mixed] = batches
    if spoiler is not None and spoiler.alters:
        sent, schema = spoiler.batches(batches, form), spoiler.schema
        sent = counted(sent) if counted else sent
    elif asked.types is wire.Types.TEXT or form in {wire.Format.JSON, *wire.LINES}:
        sent, schema = wire.text_batches(batches), wire.text_schema(schema)
    if form is wire.Format.JSON:
        items = [b"[", wire.json_items(sent), b"]"]
        return _json(items, around | {"generator": source.generator.model_dump()}, headers)
    schema = wire.named(schema, source.simulator.configuration_hash)
    chunks = wire.encode(sent, schema, form)
    return _Stream(chunks, headers=headers, media_type=wire.MEDIA_TYPES[form])


def _json(
    data: Sequence[bytes], around: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    after = json.dumps(around, separators=(",", ":")).encode()[1:]
    # Put together once: a page has megabytes.
    content = b"".join([b'{"data":', *data, b",", after])
    return Response(content, headers=headers, media_type="application/json")


def _bodiless(media_type: str, headers: dict[str, str] | None = None) -> Response:
    """Answer with a head alone; how long its body would be is not known (RFC 9110, 9.3.2)."""
    return StreamingResponse(iter(()), headers=headers, media_type=media_type)


class _Stream(StreamingResponse):
    """A body made in a thread ahead of the socket, no further than the socket lets it.

    Whatever fails on the way breaks the connection, for the last chunk is then never sent; and
    the thread ends when the client goes.
    """

    def __init__(
        self, chunks: Iterator[memoryview], *, headers: dict[str, str], media_type: str
    ) -> None:
        self._chunks = chunks
        super().__init__((), headers=headers, media_type=media_type)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with wire.ReadAhead(self._chunks, _CHUNKS_AHEAD) as ahead:
            self.body_iterator = _taken(ahead)
            await super().__call__(scope, receive, send)


async def _taken(ahead: Iterator[memoryview]) -> AsyncIterator[memoryview]:
    while (
        chunk := await to_thread.run_sync(next, ahead, None, abandon_on_cancel=True)
    ) is not None:
        yield chunk


class _Heads:
    """Answers HEAD as GET, without the body, on every route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = False

        async def send_head(message: Message) -> None:
            nonlocal ended
            if message["type"] != "http.response.body":
                await send(message)
            elif not ended:
                ended = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET", _HEAD: True}, receive, send_head)


class _Named:
    """Puts into every answer which generator gave it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(scope["app"].state.source.headers)
            await send(message)

        await self._app(scope, receive, send_named)


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer with the problem that an error is; an error that is none of the client's is a 500."""
    problem = _problem(request, error)
    headers = None
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        # This answer passes by the middleware that names the source, and uvicorn closes the
        # connection behind it: without a word, the client's next request would be reset.
        headers = {**_source(request).headers, "Connection": "close"}
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
    @override
    def openapi(self) -> dict[str, Any]:
        """Describe what FastAPI has no way to say: drifts, faults, problems' own media type."""
        description = copy.deepcopy(super().openapi())
        transaction = description["components"]["schemas"]["Transaction"]
        describe(transaction, parse_drifts(self.state.settings.drift), self.state.now())
        faults.describe(description)
        for path in description["paths"].values():
            for operation in path.values():
                content = operation["responses"]["4XX"]["content"]
                if "application/json" in content:
                    content["application/problem+json"] = content.pop("application/json")
        return description


def create_app(settings: Settings, *, now: Callable[[], int] = _now) -> FastAPI:
    """Return the service; its simulator is built when it starts.

    `now` is the clock, in microseconds since the epoch.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        app.state.source = Source(settings, now)
        app.state.source.warm_up()
        yield

    app = _Service(
        title="Generator of financial transactions",
        version=VERSION,
        description="Realistic, labelled card and account transactions for any window of time, "
        "the same ones every time they are asked for.",
        lifespan=lifespan,
    )
    app.state.settings, app.state.now = settings, now
    app.include_router(router)
    app.add_middleware(
        faults.FaultsMiddleware, setting=settings.faults, seed=settings.seed, refuse=_refuse
    )
    app.add_middleware(_Named)
    app.add_middleware(_Heads)
    for kind in (models.RequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app`, for `uvicorn generator_service.app:app`, only when it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return create_app(Settings.load())
    except SettingsError as error:
        print(f"generator_service: {error}", file=sys.stderr)  # noqa: T201 -- the one message
        raise SystemExit(2) from None
