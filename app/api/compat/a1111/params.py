"""Requests of the web UI's API as service parameters, with notices."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fastapi import Request

from app import imaging
from app.api.compat.a1111.controlnet import is_controlnet, with_units
from app.api.compat.a1111.samplers import resolve_sampler
from app.api.compat.a1111.types import ImageToImageRequest, ProcessingRequest, TextToImageRequest
from app.api.dependencies import Services, for_generator, loaded_models, unless_gone
from app.api.ranking_inputs import DEFAULT_STRENGTH, MASKED_STRENGTH, resolve_ranking
from app.api.upload_limits import Pixels, Sent
from app.domain import Notice, Provenance, Ranking
from app.errors import FrontrunnerError, InvalidRequest
from app.imaging import Upload
from app.service import GenerationParams, RedrawMask
from app.service.validation import check_text
from models.loras import MAX_WEIGHT, Lora

DEFAULT_PROMPT = "a picture"
"""Prompt of a request without one: a ranking needs a text."""

FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
"""File formats by the name in `samples_format`."""

USED_SETTINGS = frozenset({"sd_model_checkpoint", "samples_format", "enable_pnginfo"})
"""Settings of a request that have an effect."""

MASK_RULE = "paint the area to redraw white"

MAX_UNKNOWN = 16
"""Maximum unknown members, or tags, that get a warning of their own."""

_EXTRA_NETWORK = re.compile(r"<(\w{1,20}):([^<>:]{1,200})(?::([^<>:]{0,20}))?(?::[^<>]{0,200})?>")
_POINTERS = {
    "#/guidance_scale": "#/cfg_scale",
    "#/sampler": "#/sampler_name",
    "#/n_candidates": "#/frontrunner_candidates",
    "#/n": "#/batch_size",
    "#/size": "#/width",
    "#/output_size": "#/width",
    "#/strength": "#/denoising_strength",
    "#/loras": "#/prompt",
    "#/image": "#/init_images/0",
    "#/model": "#/override_settings/sd_model_checkpoint",
}
"""Members by the native fields that errors of the service point at."""


@contextmanager
def renamed_pointers() -> Iterator[None]:
    """Make errors of the block point at members of the web UI's API."""
    try:
        yield
    except FrontrunnerError as error:
        if error.pointer is not None:
            error.pointer = _POINTERS.get(error.pointer, error.pointer.replace("#/ranking", "#/frontrunner_ranking"))
        raise


async def text_to_image(request: Request, services: Services, body: TextToImageRequest) -> GenerationParams:
    """Service parameters of a generation from noise."""
    with renamed_pointers():
        params = await _params(request, services, body)
        if not body.enable_hr:
            return await with_units(request, services, params, body)
        info, _ = services.generations.models()
        width, height = params.width or info.width, params.height or info.height
        factor = 2.0 if body.hr_scale is None else body.hr_scale
        size = body.hr_resize_x or round(width * factor), body.hr_resize_y or round(height * factor)
        detail = "enable_hr enlarges the images without a second pass of sampling"
        notice = Notice("unsupported_parameter", detail, {"param": "enable_hr"})
        params = replace(params, output_size=size, notices=(*params.notices, notice))
        return await with_units(request, services, params, body)


async def image_to_image(request: Request, services: Services, body: ImageToImageRequest) -> GenerationParams:
    """Service parameters of a generation from the first initial image."""
    if not body.init_images:
        raise InvalidRequest("Init image not found: send one image in `init_images`", pointer="#/init_images")
    with renamed_pointers():
        params = await _params(request, services, body)
        if len(body.init_images) > 1:
            detail = "only the first image of init_images is used: send one request for each image"
            notice = Notice("unsupported_parameter", detail, {"param": "init_images"})
            params = replace(params, notices=(*params.notices, notice))
        usual = MASKED_STRENGTH if body.mask else DEFAULT_STRENGTH
        strength = usual if body.denoising_strength is None else body.denoising_strength
        sent = [Sent(Upload(body.init_images[0]), "#/init_images/0")]
        if body.mask:
            sent.append(Sent(Upload(body.mask, alpha=True), "#/mask"))

        async def read() -> GenerationParams:
            async with services.uploads.read(sent) as images:
                mask = await asyncio.to_thread(_mask, images[1], images[0], body.invert) if body.mask else None
                started = await services.img2img.from_upload(params, images[0], strength, mask=mask)
                return replace(started, notices=(*started.notices, *_cropped(started, images[0], body)))

        started = await unless_gone(request, read())
        return await with_units(request, services, started, body, body.init_images[0])


def _mask(mask: Pixels, image: Pixels, invert: bool) -> RedrawMask:
    """The painted area of a mask (H, W, 4), stretched to its image (h, w, 3)."""
    area = imaging.stretch_mask(imaging.painted_area(mask), (image.shape[1], image.shape[0]))
    return RedrawMask(~area if invert else area, MASK_RULE)


def _cropped(params: GenerationParams, image: Pixels, body: ImageToImageRequest) -> Iterator[Notice]:
    """A notice if the image loses a margin, unless the request asks for that."""
    height, width = image.shape[:2]
    size = params.output_size or (params.width or width, params.height or height)
    if body.resize_mode != 1 and abs(size[0] * height - size[1] * width) > max(size) * max(width, height) / 100:
        detail = f"the initial image of {width}x{height} was cropped to the ratio of {size[0]}x{size[1]}"
        yield Notice("init_image_cropped", detail, {"param": "resize_mode"})


async def _params(request: Request, services: Services, body: ProcessingRequest) -> GenerationParams:
    _check_scripts(body)
    generator, _ = services.generations.models()
    settings = body.override_settings or {}
    model, aliased = services.aliases.generator(_model(services, settings), loaded_models(services))
    sampler, replaced = resolve_sampler(body.sampler_name or body.sampler_index, body.scheduler, generator)
    prompt, negative, texts = _texts(services, body)
    prompt, loras, networks = _networks(services, prompt)
    ranking = await resolve_ranking(request, services, body.frontrunner_ranking, Ranking())
    return GenerationParams(
        prompt=prompt,
        negative_prompt=negative,
        n_candidates=body.frontrunner_candidates,
        n=body.n,
        width=body.width,
        height=body.height,
        fit="nearest",
        steps=body.steps,
        guidance_scale=body.cfg_scale,
        sampler=sampler,
        seed=None if body.seed == -1 else body.seed,
        model=model,
        ranking=ranking,
        partial_images=body.frontrunner_previews or 0,
        loras=loras,
        output_format=_output_format(settings),
        provenance=_provenance(settings),
        job="img2img" if isinstance(body, ImageToImageRequest) else "txt2img",
        notices=(*aliased, *replaced, *texts, *networks),
    )


def is_model(title: object, model: str) -> bool:
    """Whether a checkpoint's title names the model: with or without suffix and hash."""
    name = str(title).partition(" [")[0].strip()
    return model in {name, name.removesuffix(".safetensors"), name.removesuffix(".ckpt")}


def _model(services: Services, settings: Mapping[str, Any]) -> str | None:
    """The requested model; None without one."""
    title = settings.get("sd_model_checkpoint")
    if title in (None, "", "None"):
        return None
    return next((name for name in model_ids(services) if is_model(title, name)), str(title))


def model_ids(services: Services) -> tuple[str, ...]:
    """Ids of the generators that requests can name, the default first. Raises Loading."""
    several = services.models.ids
    return (*several, *services.models.elsewhere) if several else (services.generations.models()[0].id,)


async def of_checkpoint(services: Services, body: ProcessingRequest) -> Services:
    """The services of the checkpoint that a request names.

    Raises NotFound, WrongModelKind, ModelLoadFailed, Draining and StoreUnavailable.
    """
    if not services.models.several:
        return services
    settings = body.override_settings or {}
    since = time.monotonic()
    if _model(services, settings) not in (None, *model_ids(services)):
        await services.models.look_elsewhere()
    with renamed_pointers():
        return await for_generator(services, _model(services, settings), since)


def _provenance(settings: Mapping[str, Any]) -> Provenance:
    """Files contain metadata unless the web UI's own setting turns it off.

    Clients of the web UI read it, so the server's default does not count.
    """
    enabled = settings.get("enable_pnginfo", True)
    if not isinstance(enabled, bool):
        raise InvalidRequest("send true or false", pointer="#/override_settings/enable_pnginfo")
    return Provenance.METADATA if enabled else Provenance.NONE


def _output_format(settings: Mapping[str, Any]) -> str:
    wanted = settings.get("samples_format") or "png"
    if not isinstance(wanted, str) or wanted.lower() not in FORMATS:
        raise InvalidRequest(
            f"the format is unknown: use one of {', '.join(FORMATS)}", pointer="#/override_settings/samples_format"
        )
    return FORMATS[wanted.lower()]


def _texts(services: Services, body: ProcessingRequest) -> tuple[str, str, list[Notice]]:
    """Prompt and negative prompt with styles, and notices."""
    notices: list[Notice] = []
    presets = {preset.name: preset for preset in services.explainer.presets.items}
    prompts, negatives = [body.prompt or ""], [body.negative_prompt or ""]
    for style in body.styles or ():
        if (preset := presets.get(style)) is not None:
            prompts.append(preset.prompt)
            negatives.append(preset.negative)
        else:
            detail = f"the style {style[:64]!r} is unknown and was ignored: use one of GET /sdapi/v1/prompt-styles"
            notices.append(Notice("unknown_style", detail, {"param": "styles"}))
    prompt = ", ".join(part for part in prompts if part.strip())
    if not _EXTRA_NETWORK.sub("", prompt).strip():
        notices.append(Notice("empty_prompt", f"the prompt is empty: {DEFAULT_PROMPT!r} was used", {"param": "prompt"}))
        prompt = f"{DEFAULT_PROMPT} {prompt}"
    return prompt, ", ".join(part for part in negatives if part.strip()), notices


def adapter_names(services: Services) -> tuple[str, ...]:
    """LoRA adapters that the loaded model can use."""
    generator, _ = services.generations.models()
    return services.loras.names if services.loras is not None and generator.loras is not None else ()


def _networks(services: Services, prompt: str) -> tuple[str, tuple[Lora, ...] | None, list[Notice]]:
    """The prompt without its tags of networks, the adapters they name, and notices.

    Raises InvalidRequest for a wrong weight, and for a prompt that is too long with its tags.
    """
    check_text(prompt, "#/prompt", services.generations.limits)
    known, loras, unknown = adapter_names(services), dict[str, Lora](), dict[str, None]()
    for kind, name, weight in _EXTRA_NETWORK.findall(prompt):
        if kind.lower() == "lora" and name in known:
            loras[name] = Lora(name, _weight(weight))
        else:
            unknown[f"<{kind}:{name}>"] = None
    tags = [
        *list(unknown)[:MAX_UNKNOWN],
        *([f"{len(unknown) - MAX_UNKNOWN} more"] if len(unknown) > MAX_UNKNOWN else []),
    ]
    detail = "{} removed from the prompt: use a name of GET /sdapi/v1/loras"
    notices = [Notice("unsupported_parameter", detail.format(tag), {"param": "prompt"}) for tag in tags]
    return _EXTRA_NETWORK.sub("", prompt).strip(), tuple(loras.values()) or None, notices


def _weight(text: str) -> float:
    try:
        weight = float(text or 1.0)
    except ValueError:
        weight = math.nan
    if not abs(weight) <= MAX_WEIGHT:
        raise InvalidRequest(
            f"{text!r} is no weight of an adapter: use a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}",
            pointer="#/prompt",
        )
    return weight


def _check_scripts(body: ProcessingRequest) -> None:
    """Refuse scripts but ControlNet, as a web UI refuses those that are not installed."""
    if body.script_name and body.script_name != "None":
        raise InvalidRequest("Script not found: no script is available, omit `script_name`", pointer="#/script_name")
    for name, script in (body.alwayson_scripts or {}).items():
        args = script.get("args") if isinstance(script, dict) else script
        if args and args != [False] and not is_controlnet(name):
            raise InvalidRequest(
                f"always on script {name[:64]!r} not found: omit it, or send it without `args`",
                pointer="#/alwayson_scripts",
            )


def unsupported_settings(body: ProcessingRequest) -> list[Notice]:
    """Notices on members and settings without effect."""
    names = [*body.unsupported(), *(f"override_settings.{name}" for name in _ignored_settings(body))]
    notices = [Notice("unsupported_parameter", f"`{name}` has no effect: omit it", {"param": name}) for name in names]
    unknown = body.unknown()
    notices += [
        Notice("unknown_parameter", f"`{name}` is unknown and was ignored", {"param": name})
        for name in unknown[:MAX_UNKNOWN]
    ]
    if len(unknown) > MAX_UNKNOWN:
        detail = f"{len(unknown) - MAX_UNKNOWN} more members are unknown and were ignored"
        notices.append(Notice("unknown_parameter", detail))
    return notices


def _ignored_settings(body: ProcessingRequest) -> list[str]:
    harmless = {"CLIP_stop_at_last_layers": (1,), "sd_vae": ("Automatic", "None", ""), "samples_save": (True, False)}
    return [
        name.encode("ascii", "replace").decode("ascii")[:64]
        for name, value in (body.override_settings or {}).items()
        if name not in {"sd_model_checkpoint", "samples_format", "enable_pnginfo"}
        and value not in harmless.get(name, ())
    ][:MAX_UNKNOWN]
