"""The HTTP interface: FastAPI makes its checks and its OpenAPI from the types here."""

# No `from __future__ import annotations`: FastAPI reads the types of functions inside functions.

import asyncio
import hmac
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from rka_fast.errors import DataError, UserError
from rka_fast.serving.batching import Batching
from rka_fast.serving.engine import Asked, Engine, Listed
from rka_fast.serving.limits import Limits
from rka_fast.serving.metrics import Counted, Metrics
from rka_fast.version import __version__

log = logging.getLogger("uvicorn.error")  # where the server's own lines go
PATHS = frozenset({"/recommend", "/similar", "/health", "/metrics", "/reload"})


class Scored(BaseModel):
    """An item and its score."""

    item: str
    score: float


class Recommended(BaseModel):
    """A list, the best first.

    by: the model, or popularity where nothing of the history is known. unknown: items of the
    history, and of what is excluded, that are not in the catalogue.
    """

    items: list[Scored]
    by: str
    unknown: list[str]


class Similar(BaseModel):
    """A list, the nearest first, and the measure."""

    items: list[Scored]
    by: str


class Health(BaseModel):
    """What is served."""

    status: Literal["ok"] = "ok"
    model: str
    items: int


class Problem(BaseModel):
    """What was wrong."""

    detail: str


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no text") from None
    return text


def _number(value: Any) -> Any:
    if isinstance(value, (bool, str)):
        raise ValueError("expected a number")
    return value


Number = BeforeValidator(_number)
"""Numbers alone: left to itself pydantic reads text and truth values too, or refuses 10.0."""
Id = Annotated[str, AfterValidator(_encodable)]
"""An id, which the answer may name: JSON can hold what UTF-8 cannot."""


class Event(BaseModel):
    """An item of a history and when it was had, in seconds since 1970."""

    model_config = ConfigDict(extra="forbid")
    item: Id
    time: Annotated[float, Number] = Field(allow_inf_nan=False, ge=-1e11, le=1e11)


def _form_of_had(given: Any) -> str:
    return "Event" if isinstance(given, dict) else "Id"


def _form_of_wanted(body: Any) -> str:
    return "ByUser" if isinstance(body, dict) and "user" in body else "ByHistory"


# By discriminators a fault is told of the form that was meant, not of every form.
Had = Annotated[
    Annotated[Id, Tag("Id")] | Annotated[Event, Tag("Event")], Discriminator(_form_of_had)
]
"""What a history holds."""


def requests_within(limits: Limits) -> Any:
    """The body of /recommend: by a history, or by a user of the run's data."""

    class _Wanted(BaseModel):
        model_config = ConfigDict(extra="forbid")
        top: Annotated[int, Number] = Field(10, ge=1, le=limits.top, description="How many items.")
        exclude: list[Id] = Field(
            [], max_length=limits.history, description="Items that are not to be recommended."
        )
        seen: Literal["hide", "keep"] | None = Field(
            None, description="What becomes of the history's items; by default as in the run."
        )

    class ByHistory(_Wanted):
        """Anybody, by what they had."""

        history: list[Had] = Field(
            max_length=limits.history,
            description="Oldest first; with times for a run that reads them.",
        )

    class ByUser(_Wanted):
        """A user of the data of the run, with their history there."""

        user: Id

    return Annotated[
        Annotated[ByHistory, Tag("ByHistory")] | Annotated[ByUser, Tag("ByUser")],
        Discriminator(_form_of_wanted),
    ]


class Server:
    """What is served now, and how another one takes its place.

    engine: what is served first. load: makes an engine, for a reload.
    """

    def __init__(
        self,
        engine: Engine,
        load: Callable[[], Engine],
        batching: Batching,
        metrics: Metrics,
    ) -> None:
        self.load, self.batching, self.metrics = load, batching, metrics
        self._loading = asyncio.Lock()
        self._take(engine)

    async def reload(self) -> None:
        """Load again, in a thread, and swap. Raises UserError, and what is served stays."""
        async with self._loading:
            try:
                engine = await asyncio.to_thread(warm, self.load)
            except (UserError, OSError) as error:
                self.metrics.reloads.labels("failed").inc()
                log.error("not reloaded, the old one is served on: %s", error)
                raise UserError(str(error)) from None
            self.metrics.reloads.labels("done").inc()
            self._take(engine)

    def _take(self, engine: Engine) -> None:
        self.engine = engine
        self.metrics.items.set(len(engine.ids))
        log.info("serving %s, %s items", engine.model, f"{len(engine.ids):,}")
        for note in engine.notes:
            log.info("%s", note)

    async def recommend(self, wanted: Any) -> Recommended:
        """The answer to a `ByHistory` or `ByUser`. Raises HTTPException."""
        engine = self.engine
        excluded, unknown = _numbers(engine, wanted.exclude)
        if (name := getattr(wanted, "user", None)) is None:
            user, (history, times, missing) = -1, _history(engine, wanted.history)
            unknown = missing + unknown
        else:
            try:
                user, history, times = engine.user(name)
            except DataError as error:
                raise HTTPException(404, str(error)) from None
        hide = engine.hides_seen if wanted.seen is None else wanted.seen == "hide"
        hidden = np.concatenate([history, excluded]) if hide else excluded
        self.metrics.unknown.inc(len(unknown))
        top = min(wanted.top, len(engine.ids))
        listed = await self.batching(engine, Asked(history, np.unique(hidden), top, user, times))
        return Recommended(items=_scored(engine, listed), by=listed.by, unknown=unknown)

    async def similar(self, item: str, top: int) -> Similar:
        """The nearest items. Raises HTTPException."""
        engine = self.engine
        if item not in engine.numbers:
            raise HTTPException(404, f"unknown item {item!r}")
        try:
            listed = await asyncio.to_thread(engine.similar, engine.numbers[item], top)
        except DataError as error:
            raise HTTPException(404, str(error)) from None
        return Similar(items=_scored(engine, listed), by=listed.by)


def warm(load: Callable[[], Engine]) -> Engine:
    """A new engine that has answered: first answers take longer, and nobody waits for this one."""
    engine = load()
    first, times = np.array([1]), np.array([0.0]) if engine.reads_times else None
    engine.rank([Asked(first, first, 1, times=times)])
    return engine


def _history(
    engine: Engine, given: list[str | Event]
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Item numbers, their times where they are read, and unknown ids. Raises HTTPException."""
    pairs = [(of, None) if isinstance(of, str) else (of.item, of.time) for of in given]
    history, unknown = _numbers(engine, [item for item, _ in pairs])
    if not engine.reads_times:
        return history, None, unknown
    times = [time for item, time in pairs if item in engine.numbers]
    if None in times:
        told = 'the run reads times: give {"item": ..., "time": ...} in the history'
        raise HTTPException(409, told)
    return history, np.array(times, np.float64), unknown


def _numbers(engine: Engine, ids: list[str]) -> tuple[np.ndarray, list[str]]:
    """Item numbers of those that are known, int64, and those that are not, once each."""
    known = [engine.numbers[name] for name in ids if name in engine.numbers]
    unknown = dict.fromkeys(name for name in ids if name not in engine.numbers)
    return np.array(known, np.int64), list(unknown)


def _scored(engine: Engine, listed: Listed) -> list[Scored]:
    found = zip(listed.items.tolist(), listed.scores.tolist(), strict=True)
    return [Scored(item=engine.ids[item - 1], score=score) for item, score in found]


def _server(request: Request) -> Server:
    return request.app.state.server


Now = Annotated[Server, Depends(_server)]
"""What is served when a request comes."""


def _problems(statuses: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem, "description": text} for code, text in statuses.items()}


_OF_RECOMMEND = {
    **_problems(
        {
            400: "The body cannot be read.",
            404: "The user is not known.",
            409: "The run reads times and the history has none.",
        }
    ),
    413: {
        "description": "The body is too large.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
}


async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    # Without the input, which JSON may not be able to say again.
    told = [{key: of[key] for key in ("loc", "msg", "type")} for of in error.errors()]
    return JSONResponse({"detail": told}, 422)


def make_app(
    load: Callable[[], Engine],
    limits: Limits,
    *,
    most: int = 64,
    wait: float = 0.002,
    token: str | None = None,
) -> FastAPI:
    """The application; `app.state.server` is its `Server` while it runs.

    load: makes the engine, now and for a reload; raises UserError. most, wait: as in `Batching`.
    token: what /reload asks for; without one there is no /reload.
    """
    metrics, first = Metrics(), warm(load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Batching(most, wait, metrics.batch.observe) as batching:
            app.state.server = Server(first, load, batching, metrics)
            yield

    app = FastAPI(
        title="rka_fast", version=__version__, lifespan=lifespan,
        summary="The next items for histories.",
        docs_url=None, redoc_url=None,  # pages that load scripts from elsewhere
        max_body_size=limits.body,
    )  # fmt: skip
    app.add_middleware(Counted, metrics=metrics, paths=PATHS)
    app.exception_handler(RequestValidationError)(_invalid)

    Wanted = requests_within(limits)

    @app.post("/recommend", responses=_OF_RECOMMEND)
    async def recommend(body: Wanted, now: Now) -> Recommended:  # pyright: ignore
        """The next items for a history, or for a user of the run's data."""
        return await now.recommend(body)

    @app.get("/similar", responses=_problems({404: "The item is not known, or has no vector."}))
    async def similar(
        now: Now, item: str, top: Annotated[int, Query(ge=1, le=limits.top)] = 10
    ) -> Similar:
        """The items whose vectors have the largest cosine with this one's."""
        return await now.similar(item, top)

    @app.get("/health")
    async def health(now: Now) -> Health:
        """Whether it answers, and what it serves."""
        return Health(model=now.engine.model, items=len(now.engine.ids))

    @app.get("/metrics", response_class=PlainTextResponse)
    async def counted() -> PlainTextResponse:
        """Counters for Prometheus."""
        text = generate_latest(metrics.registry)
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)

    if token is not None:
        _add_reload(app, token)
    return app


def _add_reload(app: FastAPI, token: str) -> None:
    bearer = HTTPBearer(auto_error=False)

    @app.post(
        "/reload",
        responses=_problems(
            {
                401: "The token is another one, or missing.",
                409: "It cannot be loaded; what was served is served on.",
            }
        ),
    )
    async def reload(
        now: Now,
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> Health:
        """Load what lies at the served path now, and serve it in place of what was there."""
        # Headers are read as latin-1, whatever bytes they hold.
        sent = b"" if given is None else given.credentials.encode("latin-1")
        if not hmac.compare_digest(sent, os.fsencode(token)):
            raise HTTPException(401, "wrong token", {"WWW-Authenticate": "Bearer"})
        try:
            await now.reload()
        except UserError as error:
            raise HTTPException(409, str(error)) from None
        return Health(model=now.engine.model, items=len(now.engine.ids))
