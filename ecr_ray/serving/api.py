"""The HTTP API: routes, their documentation, and what an error looks like. `build` makes it of what answers."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import ecr_ray
from ecr_ray.config import ServeConfig
from ecr_ray.serving import chat, errors, exposition, schemas, sse
from ecr_ray.serving.adapters import State, Version
from ecr_ray.serving.answering import Answering
from ecr_ray.serving.chat import Completing
from ecr_ray.serving.errors import ApiError
from ecr_ray.serving.films import Films
from ecr_ray.serving.frontdoor import Frontdoor
from ecr_ray.serving.keys import Keyring
from ecr_ray.serving.limits import Limiter
from ecr_ray.serving.services import Services
from ecr_ray.serving.thumbs import Thumbs

log = logging.getLogger("ray.serve")
router = APIRouter()
_DESCRIPTION = """Recommends films in a conversation. `Authorization: Bearer ecr_…` says who asks; GET / is a page to
try it.

Errors are JSON: `{"error": {"code", "message", "type", "param"}}`. Where it helps to ask again, `Retry-After` says
when.
"""
_PAGE = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}
# OpenAI's clients ask for a time of making; a model's is not known here.
_CREATED = 1_767_225_600


@dataclass(frozen=True)
class Here:
    """What routes answer with."""

    services: Services
    settings: ServeConfig
    films: Films
    thumbs: Thumbs


async def _here(request: Request) -> Here:
    return request.app.state.here


async def _admin(request: Request) -> None:
    if not request.state.key.admin:
        raise ApiError(403, "not_admin", "this needs an admin key: python -m ecr_ray.serving.keys add NAME --admin")


Its = Annotated[Here, Depends(_here)]
ADMIN = [Depends(_admin)]


def _fails(**more: str) -> dict[int | str, dict[str, Any]]:
    found = {
        400: "The prompt does not fit.",
        401: "No API key, or not one that is known here.",
        408: "The body took too long to arrive.",
        413: "The body is too large.",
        422: "A field is missing, misspelt or not what it must be.",
        429: "This key asks for too much.",
        503: "Too much is under way, or a part is being replaced: try again.",
        504: "It took too long.",
    }
    found |= {int(name.removeprefix("_")): text for name, text in more.items()}
    return {status: {"model": schemas.ErrorResponse, "description": text} for status, text in found.items()}


_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
_OF_ADAPTERS = _fails(_403="This key may not.", _409="It cannot be served, or the step cannot be taken.")


def build(services: Services, settings: ServeConfig, films: Films, keyring: Keyring, limiter: Limiter) -> FastAPI:
    """The ASGI application.

    Args:
        services: who answers.
        settings: limits and defaults.
        films: the catalogue.
        keyring: who may ask.
        limiter: for how much.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await services.start()
        yield

    # The usual pages of documentation load their code from elsewhere.
    about = {"title": "ecr_ray", "version": ecr_ray.__version__, "description": _DESCRIPTION}
    api = FastAPI(**about, lifespan=life, docs_url=None, redoc_url=None)
    api.state.here = Here(services, settings, films, Thumbs(settings, films))
    api.include_router(router)
    api.add_middleware(Frontdoor, settings=settings, keyring=keyring, limiter=limiter, meter=services.meter)
    api.add_exception_handler(ApiError, _told)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _unexpected)
    return api


async def _told(request: Request, error: Any) -> Response:
    return JSONResponse(error.body(), error.status, error.headers())


async def _invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "(body)"
    # What was sent is not repeated: it may be anything.
    return await _told(request, ApiError(422, "invalid_request", f"{where}: {first['msg']}", param=where))


async def _http(request: Request, error: Any) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    body = ApiError(error.status_code, code, str(error.detail)).body()
    return JSONResponse(body, error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("an unexpected error", exc_info=error)
    return await _told(request, errors.internal())


# --- the page, and whether all is well ----------------------------------------------------------------------


def _asset(name: str) -> Response:
    content = (resources.files("ecr_ray.serving") / "page" / name).read_bytes()
    return Response(content, media_type=_PAGE[name], headers={"cache-control": "no-cache"})


@router.get("/", include_in_schema=False)
def page() -> Response:
    """The page to talk to."""
    return _asset("index.html")


@router.get("/page/{name}", include_in_schema=False)
def asset(name: str) -> Response:
    """What the page is made of."""
    if name not in _PAGE:
        raise HTTPException(404, "there is no such file")
    return _asset(name)


@router.get("/healthz", tags=["operation"], summary="Whether this process is alive")
async def healthz() -> dict[str, str]:
    """Alive."""
    return {"status": "ok"}


@router.get("/readyz", tags=["operation"], summary="Whether every part answers", responses=_fails())
async def readyz(its: Its) -> dict[str, str]:
    """Asks them all."""
    await its.services.ready()
    return {"status": "ready"}


@router.get("/metrics", tags=["operation"], summary="For Prometheus", response_class=Response, responses=_fails())
async def metrics() -> Response:
    """Of all replicas, as Ray's agents have them; some seconds old."""
    return Response(await exposition.collect(), media_type=exposition.CONTENT_TYPE)


# --- conversations --------------------------------------------------------------------------------------------


@router.post(
    "/v1/recommend",
    tags=["conversation"],
    summary="An answer with recommendations",
    response_model=schemas.RecommendResponse,
    responses=_fails(_404="There is no such adapter.") | _STREAM,
)
async def recommend(request: schemas.RecommendRequest, its: Its) -> Any:
    """Reads the dialogue's feelings and films, writes an answer, and rates it."""
    _check_length([m.content for m in request.messages], its.settings)
    if request.messages[-1].role not in ("user", "seeker"):
        raise ApiError(422, "invalid_request", "the last message must be the user's", param="messages")
    version = await its.services.version(request.adapter, param="adapter")
    answer = Answering(request, its.services, its.settings, its.films.titles, version)
    failed = partial(its.services.count, version, True, None)
    if request.stream:
        return await sse.response(sse.named(answer.events()), its.settings.timeout_s, failed)
    return await sse.in_time(answer.whole(), its.settings.timeout_s, failed)


@router.post(
    "/v1/feedback",
    tags=["conversation"],
    summary="A thumb up or down, kept with the dialogue as training data",
    response_model=schemas.Stored,
    responses=_fails(_507="The disk does not take it."),
)
def feedback(request: schemas.FeedbackRequest, its: Its) -> Any:
    """Stores it; `jobs/prepare.py --input OUTPUT/feedback` reads it back."""
    _check_length([m.content for m in request.messages], its.settings)
    its.thumbs.add(request)
    return {"stored": True}


@router.post(
    "/v1/chat/completions",
    tags=["OpenAI"],
    summary="The policy alone, for OpenAI's clients",
    response_model=schemas.ChatCompletion,
    responses=_fails(_404="There is no such model.") | _STREAM,
)
async def completions(request: schemas.ChatRequest, its: Its) -> Any:
    """As OpenAI's chat completions, streaming too."""
    _check_length([m.text for m in request.messages], its.settings)
    version = await its.services.version(request.model, param="model")
    answer = Completing(request, its.services, its.settings, its.films.titles, version)
    failed = partial(its.services.count, version, True, None)
    if request.stream:
        return await sse.response(sse.openai(answer.chunks()), its.settings.timeout_s, failed)
    return JSONResponse(await sse.in_time(answer.whole(), its.settings.timeout_s, failed))


@router.get("/v1/models", tags=["OpenAI"], summary="Model ids", response_model=schemas.Models, responses=_fails())
async def models(its: Its) -> Any:
    """Versions of the policy, and their names."""
    names = chat.models(its.services.state.versions)
    return {"object": "list", "data": [{"id": name, "created": _CREATED} for name in names]}


def _check_length(texts: list[str], settings: ServeConfig) -> None:
    if len(texts) > settings.max_messages:
        told = f"a dialogue may have at most {settings.max_messages} messages here, this one has {len(texts)}"
        raise ApiError(422, "dialogue_too_long", told, param="messages")
    most = settings.max_message_chars
    for number, text in enumerate(texts):
        if len(text) > most:
            told = f"a message may have at most {most:,} characters here, this one has {len(text):,}"
            raise ApiError(422, "message_too_long", told, param=f"messages.{number}.content")


# --- adapters -------------------------------------------------------------------------------------------------


@router.get(
    "/v1/adapters",
    tags=["adapters"],
    summary="Versions of the policy",
    response_model=schemas.Adapters,
    responses=_OF_ADAPTERS,
)
async def versions(its: Its) -> Any:
    """Which there are, and why each is where it is."""
    return _adapters(await its.services.newest())


@router.post(
    "/v1/adapters",
    tags=["adapters"],
    summary="Check an adapter of the directory, and try it on a share of the requests",
    status_code=201,
    response_model=schemas.AdapterVersion,
    responses=_OF_ADAPTERS,
    dependencies=ADMIN,
)
async def add(asked: schemas.AdapterRequest, its: Its) -> Any:
    """At once; directories that appear are also found without being asked for."""
    return _version(await its.services.add_adapter(asked.name, asked.digest))


@router.post(
    "/v1/adapters/promote",
    tags=["adapters"],
    summary="Make a version live",
    response_model=schemas.Adapters,
    responses=_OF_ADAPTERS,
    dependencies=ADMIN,
)
async def promote(asked: schemas.VersionRequest, its: Its) -> Any:
    """By default the one on trial. Answers under way are finished by the version that began them."""
    return _adapters(await its.services.promote(asked.version, asked.reason))


@router.post(
    "/v1/adapters/rollback",
    tags=["adapters"],
    summary="End a trial, or make live what was live before",
    response_model=schemas.Adapters,
    responses=_OF_ADAPTERS,
    dependencies=ADMIN,
)
async def rollback(asked: schemas.VersionRequest, its: Its) -> Any:
    """Answers under way are finished by the version that began them."""
    return _adapters(await its.services.roll_back(asked.reason))


def _version(version: Version) -> dict[str, Any]:
    named = {name: getattr(version, name) for name in ("name", "digest", "status", "reason", "since")}
    return {"id": version.id, **named}


def _adapters(state: State) -> dict[str, Any]:
    found = [_version(version) for version in state.versions.values()]
    return {"live": state.live, "canary": state.canary, "share": state.share, "versions": found}
