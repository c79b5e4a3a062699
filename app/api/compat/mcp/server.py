"""The MCP server: names, parameters and descriptions of the tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote

import httpx
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

from app import __version__
from app.api.compat.mcp import tools
from app.api.compat.mcp.tools import FORMATS, GenerationResult, ImageResult, RankingResult, Refused, Service

Connect: TypeAlias = Callable[[Context[Any, Any]], AbstractAsyncContextManager[Service]]
"""Connects a call to the service, on behalf of its caller."""

INSTRUCTIONS = """\
Generates images: samples many candidates for a prompt, scores them with CLIP and returns the best. A result has an id.
`rerank` orders its candidates by other words without sampling, `refine` samples new ones from one of them, `get_image`
returns any of them. A score compares images of one prompt only.
"""

Prompt: TypeAlias = Annotated[str, Field(description="What the images should show.")]
Negative: TypeAlias = Annotated[str | None, Field(description="What the images should not show.")]
Candidates: TypeAlias = Annotated[int | None, Field(description="Images to sample and compare. Default: the server's.")]
Best: TypeAlias = Annotated[int | None, Field(description="Images to return, best first. Default: 1.")]
GenerationId: TypeAlias = Annotated[str, Field(description="Id of a generation, `gen_...`.")]
Inline: TypeAlias = Annotated[
    bool, Field(description=f"Return the images themselves, at most {tools.MAX_INLINE}, not only links.")
]
Seed: TypeAlias = Annotated[int | None, Field(description="Seed of the first candidate. Default: random.")]
Steps: TypeAlias = Annotated[int | None, Field(description="Denoising steps. Default: the model's.")]
Guidance: TypeAlias = Annotated[float | None, Field(description="Guidance scale. Default: the model's.")]
Strength: TypeAlias = Annotated[float | None, Field(description="0 keeps the initial image, 1 ignores it.")]
Provenance: TypeAlias = Annotated[
    Literal["none", "metadata", "c2pa"] | None,
    Field(description="metadata writes prompt and settings into files, c2pa a signed manifest. Default: unchanged."),
]
Picture: TypeAlias = Annotated[str | None, Field(description="Initial image, as a data: URI or bare base64.")]

_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_MAKES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)


def build_server(connect: Connect) -> MCPServer:
    """The server with its tools."""
    server = MCPServer("frontrunner", title="Frontrunner", version=__version__, instructions=INSTRUCTIONS)
    server.middleware.append(_KnownArguments(server))
    for add in (_add_generate, _add_refine, _add_rerank, _add_rank, _add_get_image):
        add(server, connect)
    return server


def _add_generate(server: MCPServer, connect: Connect) -> None:
    @server.tool(title="Generate images", annotations=_MAKES)
    async def generate(
        context: Context[Any, Any],
        prompt: Prompt,
        negative_prompt: Negative = None,
        n_candidates: Candidates = None,
        n: Best = None,
        size: Annotated[str | None, Field(description="WIDTHxHEIGHT in pixels. Default: the model's.")] = None,
        aspect_ratio: Annotated[str | None, Field(description="Such as 16:9, instead of size.")] = None,
        steps: Steps = None,
        guidance_scale: Guidance = None,
        seed: Seed = None,
        image: Picture = None,
        strength: Strength = None,
        provenance: Provenance = None,
        model: Annotated[str | None, Field(description="Generator. Default: the server's.")] = None,
        inline: Inline = True,
    ) -> Annotated[CallToolResult, GenerationResult]:
        """Sample candidate images for a prompt and return the best."""
        body = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "n_candidates": n_candidates,
            "n": n,
            "size": size,
            "aspect_ratio": aspect_ratio,
            "fit": "nearest",
            "steps": steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "image": image,
            "strength": strength,
            "provenance": provenance,
            "model": model,
        }
        return await _sampled(connect, context, "/v1/generations", body, inline=inline)


def _add_refine(server: MCPServer, connect: Connect) -> None:
    @server.tool(title="Refine an image", annotations=_MAKES)
    async def refine(
        context: Context[Any, Any],
        generation: GenerationId,
        index: Annotated[int | None, Field(description="Index of the candidate to start from, unless image.")] = None,
        image: Picture = None,
        mask: Annotated[str | None, Field(description="Image of the same size, white where to redraw.")] = None,
        strength: Strength = None,
        prompt: Annotated[str | None, Field(description="New prompt. Default: unchanged.")] = None,
        negative_prompt: Negative = None,
        n_candidates: Candidates = None,
        n: Best = None,
        seed: Seed = None,
        provenance: Provenance = None,
        inline: Inline = True,
    ) -> Annotated[CallToolResult, GenerationResult]:
        """Sample new candidates from a candidate or another image, and return the best.

        Omitted values are those of the generation.
        """
        body = {
            "index": index,
            "image": image,
            "mask": mask,
            "strength": strength,
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "n_candidates": n_candidates,
            "n": n,
            "seed": seed,
            "provenance": provenance,
        }
        return await _sampled(connect, context, f"/v1/generations/{_segment(generation)}/refine", body, inline=inline)


def _add_rerank(server: MCPServer, connect: Connect) -> None:
    @server.tool(title="Rank candidates again", annotations=_READS)
    async def rerank(
        context: Context[Any, Any],
        generation: GenerationId,
        prompt: Annotated[str | None, Field(description="Text to compare with. Default: unchanged.")] = None,
        negatives: Annotated[list[str] | None, Field(description="Texts to avoid. Default: unchanged.")] = None,
        negative_weight: Annotated[float | None, Field(description="Weight of the texts to avoid, 0 to 10.")] = None,
        diversity: Annotated[
            float | None, Field(description="Above 0, near-duplicates are left out; at most 1.")
        ] = None,
        n: Best = None,
        inline: Inline = False,
    ) -> Annotated[CallToolResult, GenerationResult]:
        """Order all candidates of a generation by other words, without sampling."""
        ranking = {
            "prompt": prompt,
            "negatives": [{"text": text} for text in negatives] if negatives is not None else None,
            "negative_weight": negative_weight,
            "diversity": diversity,
        }
        body = {"ranking": {name: value for name, value in ranking.items() if value is not None}, "n": n}

        async def call(service: Service) -> CallToolResult:
            found = await tools.request(service.client, f"/v1/generations/{_segment(generation)}/rerank", body)
            return await tools.generation_result(service, found, inline=inline)

        return await _called(connect, context, call)


def _add_rank(server: MCPServer, connect: Connect) -> None:
    @server.tool(title="Rank images", annotations=_READS)
    async def rank(
        context: Context[Any, Any],
        prompt: Annotated[str, Field(description="Text to compare the images with.")],
        images: Annotated[list[str], Field(description="Images, as data: URIs or bare base64.")],
        negative_prompt: Annotated[str | None, Field(description="Text that lowers the score.")] = None,
        on_error: Annotated[
            Literal["fail", "skip"], Field(description="skip omits images that cannot be read.")
        ] = "fail",
    ) -> Annotated[CallToolResult, RankingResult]:
        """Order given images by similarity to a text."""
        body = {"prompt": prompt, "images": images, "negative_prompt": negative_prompt, "on_error": on_error}

        async def call(service: Service) -> CallToolResult:
            return tools.ranking_result(await tools.request(service.client, "/v1/rank", body))

        return await _called(connect, context, call)


def _add_get_image(server: MCPServer, connect: Connect) -> None:
    @server.tool(title="Get an image", annotations=_READS)
    async def get_image(
        context: Context[Any, Any],
        generation: GenerationId,
        index: Annotated[int, Field(description="Index of the candidate, 0 for the first.")],
        format: Annotated[FORMATS, Field(description="File format.")] = "png",
        size: Annotated[str | None, Field(description="WIDTHxHEIGHT to fit into; never enlarged.")] = None,
    ) -> Annotated[CallToolResult, ImageResult]:
        """Return the image of any candidate of a generation, not only of the best."""
        path = f"/v1/generations/{_segment(generation)}/images/{index}"

        async def call(service: Service) -> CallToolResult:
            content, url = await tools.image(service.client, path, format=format, size=size)
            return tools.image_result(content, generation, index, service.link(url))

        return await _called(connect, context, call)


async def _sampled(
    connect: Connect, context: Context[Any, Any], path: str, body: Mapping[str, Any], *, inline: bool
) -> CallToolResult:
    async def call(service: Service) -> CallToolResult:
        found = await tools.sample(service.client, path, body, _Reporter(context))
        return await tools.generation_result(service, found, inline=inline)

    return await _called(connect, context, call)


async def _called(
    connect: Connect, context: Context[Any, Any], call: Callable[[Service], Awaitable[CallToolResult]]
) -> CallToolResult:
    """The result of a call.

    An error of the service or of the connection becomes a tool error.
    """
    try:
        async with connect(context) as service:
            return await call(service)
    except Refused as error:
        return tools.refusal(error)
    except httpx.HTTPError as error:
        detail = f"the service cannot be reached ({type(error).__name__}): check that it runs, then try again"
        return tools.refusal(Refused({"detail": detail, "error": {"code": "unavailable"}}))


class _Reporter:
    """Reports progress that grows, as the protocol requires."""

    def __init__(self, context: Context[Any, Any]) -> None:
        self._context = context
        self._last = -1.0

    async def report(self, share: float, message: str) -> None:
        """See `tools.Progress`."""
        if share > self._last:
            self._last = share
            await self._context.report_progress(share, 1.0, message)


class _KnownArguments:
    """Middleware that refuses unknown arguments; the package would drop them silently."""

    def __init__(self, server: MCPServer) -> None:
        self._server = server

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """See `ServerMiddleware`."""
        params = ctx.params or {}
        given = params.get("arguments")
        if ctx.method == "tools/call" and isinstance(given, Mapping):
            known = {tool.name: tool.input_schema["properties"] for tool in await self._server.list_tools()}
            names = known.get(str(params.get("name")))
            unknown = sorted(str(name)[:64] for name in given if names is not None and name not in names)
            if unknown:
                text = f"invalid_request: unknown arguments {', '.join(unknown)}: use {', '.join(names or ())}"
                return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
        return await call_next(ctx)


@asynccontextmanager
async def connected(client: httpx.AsyncClient, origin: str) -> AsyncIterator[Service]:
    """A service by a client, which is closed afterwards."""
    async with client:
        yield Service(client, origin)


def _segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="", errors="replace")
