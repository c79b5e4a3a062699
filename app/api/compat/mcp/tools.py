"""What the tools do: requests to the native API, and their results as MCP content."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import anyio
import httpx
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent
from pydantic import BaseModel

from app.api.sse import SSE_MEDIA_TYPE

MAX_INLINE = 8
"""Maximum images of one result; further ones are links."""

CANCEL_TIMEOUT_S = 10.0
"""Seconds for cancelling the generation of a call that was cancelled."""

FORMATS = Literal["png", "webp", "jpeg"]


class RankedImage(BaseModel):
    """An image of a result, best first. `index` names it in other tools."""

    rank: int
    index: int
    score: float
    similarity: float
    penalty: float
    seed: int | None = None
    url: str | None = None


class GenerationResult(BaseModel):
    """A generation: its id, which other tools take, and its best images."""

    id: str
    prompt: str
    n_candidates: int
    images: list[RankedImage]
    low_confidence: bool
    warnings: list[dict[str, Any]]


class RankingResult(BaseModel):
    """Images in order of their score; `index` is the position in the request."""

    prompt: str
    images: list[RankedImage]
    low_confidence: bool
    warnings: list[dict[str, Any]]


class ImageResult(BaseModel):
    """An image of a generation."""

    generation: str
    index: int
    url: str


class Refused(Exception):
    """The service refused a request; `problem` is its error document."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem.get("detail"))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Service:
    """A client of the native API, and scheme and host of links; "" for relative links."""

    client: httpx.AsyncClient
    origin: str

    def link(self, url: str) -> str:
        """A link as the caller can open it."""
        return url if "://" in url else f"{self.origin}{url}"


class Progress(Protocol):
    """Receives the progress of a call."""

    async def report(self, share: float, message: str) -> None:
        """Report `share`, 0 to 1."""


async def sample(client: httpx.AsyncClient, path: str, body: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The succeeded generation of a request. A cancelled call deletes its generation.

    Raises Refused.
    """
    async with client.stream("POST", path, json=_sent(body), headers={"accept": SSE_MEDIA_TYPE}) as response:
        await _check(response)
        kind = ""
        try:
            async for kind, data in _events(response):
                if kind in {"failed", "cancelled", "error"}:
                    raise Refused(_problem_of(kind, data))
                if kind == "succeeded":
                    return data
                await _report(progress, kind, data)
        except anyio.get_cancelled_exc_class():
            if kind not in {"succeeded", "failed", "cancelled"}:
                await _cancel(client, response.headers["location"])
            raise
    raise Refused({"detail": "the event stream ended without a result: try again", "error": {"code": "interrupted"}})


async def request(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON response to a POST. Raises Refused."""
    response = await client.post(path, json=_sent(body))
    await _check(response)
    result: dict[str, Any] = response.json()
    return result


async def image(client: httpx.AsyncClient, url: str, **query: str | None) -> tuple[ImageContent, str]:
    """The image at a link as content, and its own link, signed where required.

    Raises Refused.
    """
    parts = httpx.URL(_path_of(url))
    given = {name: value for name, value in query.items() if value is not None}
    response = await client.get(parts.copy_merge_params(given))
    await _check(response)
    data = b64encode(response.content).decode("ascii")
    content = ImageContent(type="image", data=data, mime_type=response.headers["content-type"])
    return content, response.links.get("canonical", {}).get("url", url)


async def generation_result(service: Service, found: Mapping[str, Any], *, inline: bool) -> CallToolResult:
    """A generation as a result; `inline` adds its images as content."""
    result = GenerationResult(
        id=found["id"],
        prompt=found["ranking"]["prompt"],
        n_candidates=found["n_candidates"],
        images=[RankedImage.model_validate({**one, "url": service.link(one["url"])}) for one in found["data"]],
        low_confidence=found["low_confidence"],
        warnings=found["warnings"],
    )
    lines = [f"generation {result.id}: the best {len(result.images)} of {result.n_candidates} candidates"]
    lines += [f"{one.rank}. index {one.index}, score {one.score:.3f}, seed {one.seed}" for one in result.images]
    lines += [f"warning: {warning['detail']}" for warning in result.warnings]
    if not result.images:
        lines.append("no candidate reached the minimum of the ranking: lower it")
    images: list[ContentBlock] = []
    for one in result.images[: MAX_INLINE if inline else 0]:
        try:
            images.append((await image(service.client, one.url or ""))[0])
        except Refused as error:  # such as a key that may not read
            lines.append(f"the image of index {one.index} cannot be read: {error}")
    return _result([TextContent(type="text", text="\n".join(lines)), *images], result)


def ranking_result(found: Mapping[str, Any]) -> CallToolResult:
    """A ranking of uploads as a result."""
    result = RankingResult(
        prompt=found["prompt"],
        images=[RankedImage.model_validate(one) for one in found["data"]],
        low_confidence=found["low_confidence"],
        warnings=found["warnings"],
    )
    lines = [f"{one.rank}. image {one.index}, score {one.score:.3f}" for one in result.images]
    return _result([TextContent(type="text", text="\n".join(lines))], result)


def image_result(content: ImageContent, generation: str, index: int, url: str) -> CallToolResult:
    """One image as a result."""
    return _result([content], ImageResult(generation=generation, index=index, url=url))


def refusal(error: Refused) -> CallToolResult:
    """An error of the service as a tool error, in its words."""
    problem = error.problem
    code = (problem.get("error") or {}).get("code", "internal_error")
    detail = str(problem.get("detail"))
    text = "; ".join([detail, *(one["detail"] for one in problem.get("errors") or () if one["detail"] not in detail)])
    return CallToolResult(
        content=[TextContent(type="text", text=f"{code}: {text}")],
        structured_content={"error": {"code": code, "detail": problem.get("detail"), "status": problem.get("status")}},
        is_error=True,
    )


def _result(content: Sequence[ContentBlock], result: BaseModel) -> CallToolResult:
    return CallToolResult(content=list(content), structured_content=result.model_dump(mode="json"))


def _sent(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


async def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": f"the service returned HTTP status {response.status_code}"}
    raise Refused(problem)


def _problem_of(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    error = data.get("error") or {"code": kind, "message": f"the generation was {kind}"}
    return {"detail": error["message"], "error": {"code": error["code"]}}


async def _report(progress: Progress, kind: str, data: Mapping[str, Any]) -> None:
    message = f"step {data['step']} of {data['steps']}, {data['live']} candidates" if kind == "step" else kind
    if (share := data.get("progress")) is not None:
        await progress.report(float(share), message)


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    kind, data = "", ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(":")
        if name == "event":
            kind = value.removeprefix(" ")
        elif name == "data":
            data += value.removeprefix(" ")
        elif not line and data:
            yield kind, json.loads(data)
            kind, data = "", ""


async def _cancel(client: httpx.AsyncClient, location: str) -> None:
    """Cancel a generation, although this call is cancelled itself."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_TIMEOUT_S), suppress(httpx.HTTPError):
        await client.delete(_path_of(location))


def _path_of(url: str) -> str:
    """Path and query of a link, from `/v1` on."""
    return url[url.index("/v1/") :]
