"""The routes: each reads a request, asks the source, and returns a response.

Parameters and problems are in `models.py`, the bodies of responses in `responses.py`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self
from urllib.parse import urlencode

import pyarrow as pa
from fastapi import APIRouter, Depends, Path, Query, Request, Response, Security
from fastapi.responses import HTMLResponse

from generator_service import models, wire
from generator_service.access import scopes_allowed
from generator_service.computations import SMALL_ROWS, Computation, Computations
from generator_service.defects import ACCOUNT_SCHEMA, DefectInjector, page_of_kinds
from generator_service.home import SCRIPT, render_home
from generator_service.html_style import content_policy
from generator_service.keys import Scope
from generator_service.middleware import HEAD
from generator_service.models import moment_text
from generator_service.responses import Answer, Computed, bodiless, json_response, respond
from generator_service.scorecard import FEWEST_ROWS, render_html
from generator_service.simulator import (
    COORDINATES_ENCODED_SCHEMA,
    DICTIONARY_ENCODED_SCHEMA,
    SCHEMA,
    Simulator,
    Window,
)
from generator_service.simulator.configuration import FIRST_MOMENT, HOUR
from generator_service.simulator.identities import CARDS_SCHEMA, CUSTOMERS_SCHEMA, MERCHANTS_SCHEMA
from generator_service.source import Source

_COLUMNAR = {wire.Format.ARROW, wire.Format.PARQUET}
# Rows from which customers and cards are dictionary-encoded, if there are no more customers: a
# dictionary has all of them.
_ENCODED_FROM = 200_000
_SCORECARD_HOURS = 744
_HOME_ROWS = 10
_LONGEST_ID = 64


# FastAPI calls a dependency that is not async in a thread, for which it would wait in line.
async def _source(request: Request) -> Source:
    return request.app.state.source


async def _computations(request: Request) -> Computations:
    return request.app.state.computations


async def _is_head(request: Request) -> bool:
    return bool(request.scope.get(HEAD))


def _count_rows(request: Request) -> Callable[[int], None]:
    return request.app.state.metrics.count_rows


From = Annotated[Source, Depends(_source)]
Turns = Annotated[Computations, Depends(_computations)]
# Whether only the head of the response is asked for, so that its body need not be computed.
HeadOnly = Annotated[bool, Depends(_is_head)]
router = APIRouter(responses=models.problems(403, 422, 500, 503))
# The scopes that a key needs, and the answers without them.
_TRANSACTIONS = [Security(scopes_allowed, scopes=[Scope.TRANSACTIONS])]
_REFERENCE = [Security(scopes_allowed, scopes=[Scope.REFERENCE])]
_METRICS = [Security(scopes_allowed, scopes=[Scope.METRICS])]
_BY_KEY = models.problems(401, 429)


def _rows(model: type[models.BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe a response with rows to OpenAPI; the model is of its JSON."""
    content = {kind: {} for kind in wire.MEDIA_TYPES.values()}
    rows = {"model": model, "content": content, "headers": models.ROWS_HEADERS}
    return {200: rows, **_BY_KEY, **models.problems(406, *statuses)}


@dataclass(frozen=True)
class _Asked:
    """A request for a window's rows that was read; none was made for it.

    Attributes:
        form: the format.
        window: the window.
        limit: the most rows of the page; None for all.
        position: the first row.
        whole: how many rows the window has.
        identity: all that decides the rows.
    """

    form: wire.Format
    window: Window
    limit: int | None
    position: int
    whole: int
    identity: dict[str, str]

    @classmethod
    def of(
        cls, request: Request, asked: models.TransactionParameters, source: Source, route: str
    ) -> Self:
        """Read a request; `route` names it in its cursors."""
        form = models.negotiate(asked.format, request.headers.get("accept"))
        window, limit = source.window(asked), source.limit(asked, form)
        identity = _identity(asked, window, source, route)
        position, whole = 0, source.count(window)
        if asked.cursor is not None:
            position = source.cursors.read(asked.cursor, identity, whole)
        return cls(form, window, limit, position, whole, identity)

    @property
    def rows(self) -> int:
        """How many rows the page has at the most."""
        left = self.whole - self.position
        return left if self.limit is None else min(self.limit, left)


@dataclass(frozen=True)
class _Page:
    """The stretch of a window's rows that a request asks for.

    Attributes:
        form: the format.
        window: the window.
        position: the first row.
        stop: the row after the last, when all have arrived.
        is_stream: the request asks for all rows, not for a page.
        around: the fields beside the rows in JSON.
    """

    form: wire.Format
    window: Window
    position: int
    stop: int
    is_stream: bool
    around: dict[str, str | None]

    @property
    def is_last(self) -> bool:
        """Whether it ends where the window does."""
        return self.around["next"] is None

    @property
    def is_whole_stream(self) -> bool:
        """Whether it is a stream of the whole window."""
        return self.is_stream and self.position == 0

    @property
    def rows(self) -> int:
        """How many rows the page has, if all have arrived."""
        return self.stop - self.position

    @classmethod
    def of(
        cls,
        request: Request,
        asked: models.TransactionParameters,
        source: Source,
        read: _Asked,
    ) -> Self:
        """Find the page of a request; rows are made when some may not have arrived."""
        window, following, stop = read.window, None, read.whole
        if read.limit is not None:
            stop = source.simulator.advance(window, read.position, read.limit, as_of=asked.as_of)
            if stop < read.whole:
                following = _next(request, source.cursors.write(stop, read.identity))
        around = {
            "next": following,
            "start": moment_text(window.start),
            "end": moment_text(window.end),
            "as_of": None if asked.as_of is None else moment_text(asked.as_of),
        }
        is_stream = asked.limit is None and read.form is not wire.Format.JSON
        return cls(read.form, window, read.position, stop, is_stream, around)


def _identity(
    asked: models.TransactionParameters, window: Window, source: Source, route: str
) -> dict[str, str]:
    """Return all that decides the rows: a cursor is valid for the same identity only."""
    return {
        "route": route,
        "start": moment_text(window.start),
        "end": moment_text(window.end),
        "as_of": str(None if asked.as_of is None else moment_text(asked.as_of)),
        "labels": asked.labels,
        "defects": str(asked.defects),
        "configuration": source.simulator.configuration_hash,
    }


def _next(request: Request, cursor: str) -> str:
    """Return the address of the next page: this request's, with another cursor."""
    query = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
    return f"{request.url.path}?{urlencode([*query, ('cursor', cursor)])}"


@router.get("/", include_in_schema=False)
def home(request: Request, source: From, turns: Turns, head_only: HeadOnly) -> Response:
    """Return the start page: links, recent transactions, the scorecard."""
    policy = content_policy(SCRIPT)
    if head_only:
        return bodiless("text/html", policy)
    return Computed(turns, _HOME_ROWS, partial(_home, request, source, policy))


def _home(
    request: Request, source: Source, policy: dict[str, str], computation: Computation
) -> Response:
    rows = None
    if not request.app.state.keys.required():
        window, recent = _recent(source.stoppable(computation.checkpoint), _HOME_ROWS)
        injector = source.injector(window, defects="")
        items = wire.json_items(injector.batches(recent.to_batches(), wire.Format.JSON))
        rows = json.loads(b"[" + items + b"]")
    description, settings = request.app.openapi(), source.settings
    page = render_home(description, settings.configuration(), rows, docs=settings.docs)
    return HTMLResponse(page, headers=policy)


@router.get(
    "/v1/transactions",
    response_class=Response,
    responses=_rows(models.TransactionPage, 400),
    dependencies=_TRANSACTIONS,
)
def transactions(
    request: Request,
    asked: Annotated[models.TransactionParameters, Query()],
    source: From,
    turns: Turns,
    head_only: HeadOnly,
) -> Response:
    """Return the rows of a window, ordered by time, the same in every response.

    JSON gives pages; the other formats stream the whole window, or `limit` rows of it.
    `X-Total-Rows` is the number of rows; streams of rows with copies lack it.
    """
    read = _Asked.of(request, asked, source, "transactions")
    injector = source.injector(read.window, asked.defects)
    is_page = read.limit is not None or read.position > 0
    counts_copies = injector.repeats and is_page and not head_only
    if counts_copies:
        source.require_countable(read.window)
    rows = 0 if head_only else read.rows
    if counts_copies or asked.as_of is not None:
        rows = read.whole

    def compute(computation: Computation) -> Response:
        own = source.stoppable(computation.checkpoint)
        page = _Page.of(request, asked, own, read)
        schema = _schema(page, asked.types, own.simulator.configuration.customers)
        injector = source.injector(page.window, asked.defects, schema)
        counted = None
        # Copies on a page were counted for its total already.
        if page.is_whole_stream or not injector.repeats:
            counted = partial(
                source.tallies.counted,
                window=page.window,
                key=(asked.as_of, asked.defects),
                start=page.position,
                stop=None if page.is_last else page.stop,
            )
        answer = Answer(
            page.form,
            asked.types,
            schema,
            _window_rows(own, page, asked, schema),
            _total_rows(own, page, asked, injector, head_only=head_only),
            page.around,
            injector,
            counted,
            is_small=rows <= SMALL_ROWS,
        )
        return respond(answer, source.generator, _count_rows(request), head_only=head_only)

    return Computed(turns, rows, compute)


def _schema(page: _Page, types: wire.Types, customers: int) -> pa.Schema:
    """Return the schema to make rows with: large answers in columns have more dictionaries."""
    if page.form not in _COLUMNAR or page.rows < max(_ENCODED_FROM, customers):
        return SCHEMA
    return COORDINATES_ENCODED_SCHEMA if types is wire.Types.TEXT else DICTIONARY_ENCODED_SCHEMA


def _window_rows(
    source: Source,
    page: _Page,
    asked: models.TransactionParameters,
    schema: pa.Schema = SCHEMA,
) -> Iterator[pa.RecordBatch]:
    return source.rows(
        page.window,
        asked.as_of,
        position=page.position,
        stop=page.stop,
        labels=asked.labels,
        schema=schema,
    )


def _total_rows(
    source: Source,
    page: _Page,
    asked: models.TransactionParameters,
    injector: DefectInjector,
    *,
    head_only: bool,
) -> int | None:
    """Return the rows of the window as sent; None when rows would have to be made to count copies.

    A page states its total, even so: its client asks for all pages.
    """
    if not injector.repeats:
        return source.count(page.window, as_of=asked.as_of)
    if page.is_whole_stream or head_only:
        return None
    return source.sent(page.window, asked.as_of, asked.defects).totals.rows


@router.get(
    "/v1/defects",
    response_class=Response,
    responses=_rows(models.DefectPage, 400),
    dependencies=_TRANSACTIONS,
    description=page_of_kinds(),
)
def defects(
    request: Request,
    asked: Annotated[models.DefectParameters, Query()],
    source: From,
    turns: Turns,
    head_only: HeadOnly,
) -> Response:
    """Return the account of the defects in the same answer of /v1/transactions."""
    read = _Asked.of(request, asked, source, "defects")
    injector = source.injector(read.window, asked.defects)
    rows = 0 if asked.as_of is None else read.whole
    if injector.injects and not head_only:
        source.require_countable(read.window)
        rows = read.whole

    def compute(computation: Computation) -> Response:
        own = source.stoppable(computation.checkpoint)
        page = _Page.of(request, asked, own, read)
        total: int | None = 0
        entries: Iterable[pa.RecordBatch] = ()
        if injector.injects and head_only:
            total = None
        elif injector.injects:
            total = own.sent(page.window, asked.as_of, asked.defects).entries
            entries = _account(own, page, asked, injector)
        answer = Answer(
            page.form,
            asked.types,
            ACCOUNT_SCHEMA,
            entries,
            total,
            page.around,
            is_small=rows <= SMALL_ROWS,
        )
        return respond(answer, source.generator, _count_rows(request), head_only=head_only)

    return Computed(turns, rows, compute)


def _account(
    source: Source,
    page: _Page,
    asked: models.TransactionParameters,
    injector: DefectInjector,
) -> Iterator[pa.RecordBatch]:
    """Return the account of a page."""
    first = page.position
    if injector.repeats and page.position:
        first += injector.copies(source.rows(page.window, asked.as_of, stop=page.position))
    return injector.account(_window_rows(source, page, asked), first)


@router.get(
    "/v1/transactions/sample",
    response_class=Response,
    responses=_rows(models.TransactionSample),
    dependencies=_TRANSACTIONS,
)
def sample(
    request: Request,
    asked: Annotated[models.SampleParameters, Query()],
    source: From,
    turns: Turns,
) -> Response:
    """Return the most recent transactions up to now, the newest first."""
    form = models.negotiate(asked.format, request.headers.get("accept"))
    return Computed(turns, asked.count, partial(_sample, request, asked, source, form))


def _sample(
    request: Request,
    asked: models.SampleParameters,
    source: Source,
    form: wire.Format,
    computation: Computation,
) -> Response:
    window, rows = _recent(source.stoppable(computation.checkpoint), asked.count)
    answer = Answer(
        form,
        asked.types,
        SCHEMA,
        rows.to_batches(),
        rows.num_rows,
        around={},
        injector=source.injector(window, defects=""),
        is_small=asked.count <= SMALL_ROWS,
    )
    return respond(answer, source.generator, _count_rows(request))


def _recent(source: Source, rows: int) -> tuple[Window, pa.Table]:
    simulator, now = source.simulator, source.now()
    # Nights have fewer rows than the mean: look back further until there are enough.
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
    responses={200: {"model": models.OneTransaction}, **_BY_KEY, **models.problems(404)},
    dependencies=_TRANSACTIONS,
)
def transaction(
    transaction_id: Annotated[str, Path(max_length=_LONGEST_ID)], source: From
) -> Response:
    """Return one transaction, found by its id alone."""
    row = source.simulator.transaction(transaction_id)
    if row is None:
        expected = "the id of a transaction of this configuration"
        raise models.missing("transaction_id", transaction_id, expected)
    at = row.column("transaction_at")[0].value
    injector = source.injector(Window(at, at + 1), defects="")
    item = wire.json_items(injector.batches([row], wire.Format.JSON))
    return json_response([item], {"generator": source.generator.model_dump()})


@router.get(
    "/v1/control-totals",
    response_model=models.WindowTotals,
    responses=_BY_KEY,
    dependencies=_TRANSACTIONS,
)
def control_totals(
    asked: Annotated[models.TotalsParameters, Query()],
    source: From,
    turns: Turns,
    head_only: HeadOnly,
) -> Response:
    """Return the control totals of a window, which prove that a client has all of its rows.

    With defects, the totals are of the rows as sent: copies count; a row without a type counts
    under "" and one without an id as an empty id; only amounts that are plain decimals of at most
    16 digits and two decimals count.

    `ids_digest` is the sum, modulo 2^64, of a state for each id, as 16 hex digits. It does not
    depend on the order, and the digests of parts add up to the digest of the whole. The state of
    an id: take its UTF-8 bytes; state = mix(their number); pad them with zeros to a multiple of 8
    and read them as little-endian 64-bit words w: state = mix(state xor w), word by word.
    mix(z), modulo 2^64: z += 0x9E3779B97F4A7C15; z = (z xor (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z xor (z >> 27)) * 0x94D049BB133111EB; z xor (z >> 31).
    """
    window = source.window(asked)
    injector = source.injector(window, asked.defects)
    if head_only:
        return bodiless("application/json")
    rows = 0
    if source.known_totals(window, asked.as_of, asked.defects) is None:
        rows = source.count(window)
        if injector.alters:
            source.require_countable(window)
    return Computed(turns, rows, partial(_control_totals, asked, source, window))


def _control_totals(
    asked: models.TotalsParameters, source: Source, window: Window, computation: Computation
) -> Response:
    source = source.stoppable(computation.checkpoint)
    totals = source.totals(window, asked.as_of, asked.defects)
    document = models.WindowTotals(
        start=moment_text(window.start),
        end=moment_text(window.end),
        as_of=None if asked.as_of is None else moment_text(asked.as_of),
        rows=totals.rows,
        amount_by_type={name: str(amount) for name, amount in totals.amount_by_type.items()},
        ids_digest=totals.ids_digest,
        generator=source.generator,
    )
    return Response(document.model_dump_json(), media_type="application/json")


@router.get(
    "/v1/scorecard",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/html": {}}}, **_BY_KEY},
    dependencies=_TRANSACTIONS,
)
def scorecard(
    request: Request,
    asked: Annotated[models.ScorecardParameters, Query()],
    source: From,
    turns: Turns,
    head_only: HeadOnly,
) -> Response:
    """Return how realistic the rows of a window are, each measure with its target.

    Takes seconds the first time; the last few answers are cached.
    """
    window = _scorecard_window(asked, source)
    expected = f"a window with a whole hour and at least {FEWEST_ROWS:,} rows"
    too_small = models.refused("start", moment_text(window.start), expected)
    as_html = _wants_html(asked, request)
    kind, headers = "text/html" if as_html else "application/json", {"Vary": "Accept"}
    if as_html:
        headers |= content_policy()
    if head_only:
        if source.count(window) < FEWEST_ROWS:
            raise too_small
        return bodiless(kind, headers)

    def compute(computation: Computation) -> Response:
        try:
            card = source.stoppable(computation.checkpoint).scorecard(window, asked.rows)
        except ValueError:
            raise too_small from None
        content = render_html(card) if as_html else card.to_json()
        return Response(content, media_type=kind, headers=headers)

    is_known = source.known_scorecard(window, asked.rows) is not None
    return Computed(turns, 0 if is_known else asked.rows, compute)


def _scorecard_window(asked: models.ScorecardParameters, source: Source) -> Window:
    end = source.now() // HOUR * HOUR if asked.end is None else asked.end
    hours = min(_SCORECARD_HOURS, source.settings.max_window_hours)
    start = max(end - hours * HOUR, FIRST_MOMENT) if asked.start is None else asked.start
    return source.window(models.WindowParameters.model_construct(start=start, end=end))


def _wants_html(asked: models.ScorecardParameters, request: Request) -> bool:
    if asked.format is not None:
        return asked.format == "html"
    return "text/html" in request.headers.get("accept", "")


@router.get("/v1/watermark", responses=_BY_KEY, dependencies=_TRANSACTIONS)
async def watermark(source: From) -> models.Watermark:
    """Return the end of the newest complete hour."""
    return models.Watermark(watermark=moment_text(source.now() // HOUR * HOUR))


@router.get(
    "/v1/customers",
    response_class=Response,
    responses=_rows(models.ReferencePage[models.Customer], 400),
    dependencies=_REFERENCE,
)
def customers(
    request: Request,
    asked: Annotated[models.PageParameters, Query()],
    source: From,
    turns: Turns,
    head_only: HeadOnly,
) -> Response:
    """Return the customers, who pay."""
    table = _Table(CUSTOMERS_SCHEMA, source.simulator.configuration.customers, Simulator.customers)
    return _reference(request, asked, source, turns, table, head_only=head_only)


@router.get(
    "/v1/cards",
    response_class=Response,
    responses=_rows(models.ReferencePage[models.Card], 400),
    dependencies=_REFERENCE,
)
def cards(
    request: Request,
    asked: Annotated[models.PageParameters, Query()],
    source: From,
    turns: Turns,
    head_only: HeadOnly,
) -> Response:
    """Return the cards, in clear, each with its owner."""
    table = _Table(CARDS_SCHEMA, source.simulator.card_count, Simulator.cards)
    return _reference(request, asked, source, turns, table, head_only=head_only)


@router.get(
    "/v1/merchants",
    response_class=Response,
    responses=_rows(models.ReferencePage[models.Merchant], 400),
    dependencies=_REFERENCE,
)
def merchants(
    request: Request,
    asked: Annotated[models.PageParameters, Query()],
    source: From,
    turns: Turns,
    head_only: HeadOnly,
) -> Response:
    """Return the merchants, who are paid."""
    table = _Table(MERCHANTS_SCHEMA, source.simulator.configuration.merchants, Simulator.merchants)
    return _reference(request, asked, source, turns, table, head_only=head_only)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}, **_BY_KEY},
    dependencies=_METRICS,
)
async def metrics(request: Request) -> Response:
    """Return the metrics of the service, as Prometheus reads them."""
    content, kind = request.app.state.metrics.render(request.headers.get("accept", ""))
    return Response(content, media_type=kind, headers={"Vary": "Accept"})


@router.get("/healthz")
async def healthz(source: From) -> models.Health:
    """Return the state of the service, and its generator."""
    return models.Health(**source.generator.model_dump())


@dataclass(frozen=True)
class _Table:
    """Reference data.

    Attributes:
        schema: of its batches.
        rows: how many it has.
        batches: makes those from a position to another.
    """

    schema: pa.Schema
    rows: int
    batches: Callable[[Simulator, int, int], Iterator[pa.RecordBatch]]


def _reference(
    request: Request,
    asked: models.PageParameters,
    source: Source,
    turns: Computations,
    table: _Table,
    *,
    head_only: bool,
) -> Response:
    form = models.negotiate(asked.format, request.headers.get("accept"))
    limit = source.limit(asked, form)
    identity = {
        "route": request.url.path,
        "configuration": source.simulator.configuration_hash,
    }
    position, stop = 0, table.rows
    if asked.cursor is not None:
        position = source.cursors.read(asked.cursor, identity, table.rows)
    if limit is not None:
        stop = min(position + limit, table.rows)
    following = None
    if stop < table.rows:
        following = _next(request, source.cursors.write(stop, identity))
    rows = 0 if head_only else stop - position

    def compute(computation: Computation) -> Response:
        simulator = source.simulator.stoppable(computation.checkpoint)
        answer = Answer(
            form,
            asked.types,
            table.schema,
            table.batches(simulator, position, stop),
            table.rows,
            around={"next": following},
            is_small=rows <= SMALL_ROWS,
        )
        return respond(answer, source.generator, _count_rows(request), head_only=head_only)

    return Computed(turns, rows, compute)
