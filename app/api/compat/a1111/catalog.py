"""Names, options and empty lists that clients of web UIs ask for at start."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel

from app.api import openapi
from app.api.compat.a1111.params import adapter_names, is_model, model_ids
from app.api.compat.a1111.samplers import AUTOMATIC, sampler_names
from app.api.compat.a1111.types import MAX_NAME, PngInfoRequest, PngInfoResponse
from app.api.dependencies import GenerationServiceDep, JsonBody, ServicesDep
from app.api.json_body import JsonRoute
from app.api.schemas.responses import WarningOutput
from app.api.upload_limits import Sent
from app.errors import NotFound, StoreUnavailable
from app.imaging import Upload, infotext, parse_infotext

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"], route_class=JsonRoute)
ping = APIRouter(tags=["a1111"])

EMPTY = {
    "latent-upscale-modes": "latent upscalers",
    "sd-vae": "autoencoders",
    "hypernetworks": "hypernetworks",
    "face-restorers": "face restorers",
    "realesrgan-models": "upscaling models",
    "script-info": "scripts",
    "extensions": "extensions",
}
"""Lists that are empty, by route."""

REFRESHED = ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings")
"""Routes that reread folders in a web UI. Here they have no effect."""

_ERRORS = openapi.error_responses(503)


class SamplerItem(BaseModel):
    """A sampler and its other names."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    """A noise schedule."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float
    need_inner_model: bool


class ModelItem(BaseModel):
    """A checkpoint. `title` is the model's id."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class UpscalerItem(BaseModel):
    """A filter that enlarges images."""

    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float | None


class LoraItem(BaseModel):
    """A LoRA adapter, for tags such as `<lora:film:0.8>` in a prompt."""

    name: str
    alias: str
    path: str
    metadata: dict[str, str]


class StyleItem(BaseModel):
    """A preset."""

    name: str
    prompt: str | None
    negative_prompt: str | None


@router.get("/samplers", summary="List samplers (A1111 API)", responses=_ERRORS)
async def list_samplers(service: GenerationServiceDep) -> list[SamplerItem]:
    """The model's samplers by their names in web UIs, the default first."""
    generator, _ = service.models()
    return [SamplerItem(name=one.name, aliases=list(one.aliases), options={}) for one in sampler_names(generator)]


@router.get("/schedulers", summary="List schedulers (A1111 API)")
async def list_schedulers() -> list[SchedulerItem]:
    """Only `automatic`: each sampler has its own noise schedule."""
    return [SchedulerItem(name=AUTOMATIC, label="Automatic", aliases=None, default_rho=-1, need_inner_model=False)]


@router.get("/sd-models", summary="List checkpoints (A1111 API)", responses=_ERRORS)
async def list_checkpoints(services: ServicesDep) -> list[ModelItem]:
    """The generators, the default first."""
    with contextlib.suppress(StoreUnavailable):  # then the list is that of the last look
        await services.models.look_elsewhere()
    return [
        ModelItem(title=name, model_name=name, hash=None, sha256=None, filename=name, config=None)
        for name in model_ids(services)
    ]


@router.get("/upscalers", summary="List upscalers (A1111 API)", responses=_ERRORS)
async def list_upscalers(service: GenerationServiceDep) -> list[UpscalerItem]:
    """What enlarges images to the requested size: the upscaler, else a filter."""
    loaded = service.upscaler()
    names = [("None", 1.0), ("Lanczos", 4.0), *([(loaded.id, float(loaded.factor))] if loaded else [])]
    return [
        UpscalerItem(name=name, model_name=None, model_path=None, model_url=None, scale=scale) for name, scale in names
    ]


@router.get("/prompt-styles", summary="List styles (A1111 API)", responses=_ERRORS)
async def list_styles(services: ServicesDep) -> list[StyleItem]:
    """The presets of GET /v1/presets."""
    items = services.explainer.presets.items
    return [StyleItem(name=item.name, prompt=item.prompt, negative_prompt=item.negative) for item in items]


@router.get("/loras", summary="List LoRA adapters (A1111 API)", responses=_ERRORS)
async def list_loras(services: ServicesDep) -> list[LoraItem]:
    """The adapters that the loaded model can use."""
    return [LoraItem(name=name, alias=name, path=name, metadata={}) for name in adapter_names(services)]


@router.get("/embeddings", summary="List textual inversions (A1111 API)")
async def list_embeddings() -> dict[str, dict[str, Any]]:
    """None."""
    return {"loaded": {}, "skipped": {}}


@router.get("/scripts", summary="List scripts (A1111 API)")
async def list_scripts() -> dict[str, list[str]]:
    """None."""
    return {"txt2img": [], "img2img": []}


@router.get("/memory", summary="Memory (A1111 API)")
async def read_memory() -> dict[str, dict[str, str]]:
    """Not reported here; GET /metrics has measurements."""
    unreported = {"error": "not reported: see GET /metrics"}
    return {"ram": unreported, "cuda": unreported}


@router.get("/cmd-flags", summary="Command line flags (A1111 API)")
async def read_flags() -> dict[str, bool]:
    """The flags that apply here."""
    return {"api": True, "nowebui": True}


@router.get("/options", summary="Read options (A1111 API)", responses=_ERRORS)
async def read_options(services: ServicesDep) -> dict[str, Any]:
    """The options that apply here; the checkpoint is the default model."""
    return _options(model_ids(services)[0])


@router.post(
    "/options",
    summary="Check options (A1111 API)",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 404, 413, 415, 422, 503),
)
async def check_options(body: Annotated[dict[str, Any], Body()], services: ServicesDep) -> dict[str, Any] | None:
    """Options are read-only, since other clients share the service.

    null means that all options have the values that were sent. `warnings` name the others. A checkpoint that is not
    served is refused. Send `override_settings` with a request instead.
    """
    checkpoint = body.pop("sd_model_checkpoint", None)
    if checkpoint is not None and not any(is_model(checkpoint, name) for name in model_ids(services)):
        await services.models.look_elsewhere()
    models = model_ids(services)
    current = _options(models[0])
    found = next((name for name in models if is_model(checkpoint, name)), None)
    if checkpoint is not None and found is None:
        only = f"only {models[0]!r} is loaded" if len(models) == 1 else "use one of GET /sdapi/v1/sd-models"
        raise NotFound(f"model {str(checkpoint)[:100]!r} not found: {only}", pointer="#/sd_model_checkpoint")
    ignored = [name for name, value in body.items() if name not in current or current[name] != value]
    ignored += ["sd_model_checkpoint"] if found not in (None, models[0]) else []
    if not ignored:
        return None
    names = [name.encode("ascii", "replace").decode("ascii")[:MAX_NAME] for name in ignored]
    return {
        "warnings": [
            WarningOutput(
                code="unsupported_parameter",
                detail=f"the option `{name}` cannot be set: send it in `override_settings` if it is supported",
                param=name,
            ).model_dump(mode="json")
            for name in names
        ]
    }


@router.post(
    "/png-info",
    summary="Read an image's parameters (A1111 API)",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 413, 415, 422, 503),
)
async def read_png_info(body: PngInfoRequest, services: ServicesDep) -> PngInfoResponse:
    """The infotext of a PNG, or the Exif user comment of another file; "" without one.

    WebP and JPEG files of this service hold JSON there, which is answered as infotext and in `items`.
    """
    texts = await services.uploads.texts(Sent(Upload(body.image), "#/image"))
    info = texts.pop("parameters", None) or texts.pop("UserComment", "")
    if (own := _own_parameters(info)) is not None:
        texts["frontrunner"], info = info, infotext(own)
    return PngInfoResponse(info=info, items=texts, parameters=parse_infotext(info) if info else {})


def _own_parameters(text: str) -> dict[str, Any] | None:
    """The parameters that this service wrote into a file, if `text` is that."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if {"generation", "prompt", "width", "height"} <= found.keys() else None


@ping.get("/internal/ping", summary="Whether the service responds (A1111 API)")
async def read_ping() -> dict[str, str]:
    """Always an empty object."""
    return {}


def _options(model: str) -> dict[str, Any]:
    return {
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
        "enable_pnginfo": True,
        "default_scheduler": AUTOMATIC,
    }


async def _empty_list() -> list[Any]:
    """None: the service has no such parts."""
    return []


async def _refresh() -> None:
    """Has no effect: nothing changes while the service runs."""


for _name, _what in EMPTY.items():
    router.add_api_route(f"/{_name}", _empty_list, summary=f"List {_what} (A1111 API)", name=_name)
for _name in REFRESHED:
    router.add_api_route(f"/{_name}", _refresh, methods=["POST"], summary="No effect (A1111 API)", name=_name)
