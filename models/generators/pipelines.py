"""Pipelines of diffusers from folders and hub ids, standard and modular.

Owns loading, and the refusal of pipelines that cannot run row by row, before anything large is read. Knows no loop.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers

from models.errors import ModelNotFound, ModelUnsupported
from models.load_options import DEFAULTS, LoadOptions
from models.runtime import acceleration, hub, tokenization
from models.runtime.load_errors import check_complete, noted_gaps
from models.runtime.placement import FILE_ERRORS, DevicePlacement, TextEncoder, quiet_libraries

_INDEX, _MODULAR_INDEX = "model_index.json", "modular_model_index.json"
_STAGES = re.compile(r"IF[A-Z]|StableCascade|Wuerstchen|GlmImage|Kandinsky(V22|Combined|Prior|Pipeline)")
_INPAINTING = ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline", "FluxFillPipeline")
"""Inpainting pipelines that are served: without a mask they make whole images."""

_EVERYDAY_TEXT = "a red apple"
_OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
_NEEDED = ("prompt", "num_inference_steps", "generator", "width", "height")
_FOREIGN = {
    "strength": "starts from other images",
    "mask_image": "inpaints images",
    "control_image": "is controlled by other images",
    "controlnet_conditioning_scale": "is controlled by other images",
    "num_frames": "makes videos",
    "audio_length_in_s": "makes sound",
}
"""Arguments that show that a pipeline is not plain text to image."""


def fetch(hub_id: str) -> Path | str:
    """The folder of a hub model in the local cache; of a modular one the hub id.

    Downloads it if it is not there. Raises OSError, and ModelUnsupported before anything large is downloaded.
    """
    with quiet_libraries():
        try:
            kind = diffusers.DiffusionPipeline.load_config(hub_id)["_class_name"]
        except OSError:
            diffusers.ModularPipeline.load_config(hub_id)
            return hub_id
        check(kind)
        return Path(diffusers.DiffusionPipeline.download(hub_id, safety_checker=None))


def kind_of(source: Path | str) -> str:
    """The class of the pipeline in a folder; `ModularPipeline` for a modular one.

    Raises ModelNotFound if there is none, and ModelUnsupported if it cannot be served.
    """
    if not isinstance(source, Path) or (source / _MODULAR_INDEX).is_file():
        return "ModularPipeline"
    kind = _index(source)["_class_name"]
    check(kind)
    return str(kind)


def _index(source: Path) -> dict[str, Any]:
    if not (source / _INDEX).is_file():
        raise ModelNotFound(f"the folder is not a diffusers pipeline: {_INDEX} is missing")
    try:
        index: dict[str, Any] = json.loads((source / _INDEX).read_text())
        index["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(f"cannot read {_INDEX}") from error
    return index


def _complete(source: Path, given: Iterable[str]) -> None:
    """Raise ModelNotFound if a required part has no folder and is not `given`."""
    index = _index(source)
    known = getattr(diffusers, index["_class_name"])
    needed = {
        each.name
        for each in list(inspect.signature(known.__init__).parameters.values())[1:]
        if each.default is each.empty and each.name not in known._optional_components
    }
    parts = {name for name, part in index.items() if isinstance(part, list) and all(part) and not name.startswith("_")}
    absent = {name for name in parts if not (source / name).is_dir()}
    missing = (absent | needed - parts) - {*given, *_OPTIONAL}
    if missing:
        raise ModelNotFound(f"the folder of the {index['_class_name']} lacks {', '.join(sorted(missing))}")


def check(kind: Any) -> None:
    """Raise ModelUnsupported for a class that cannot make images row by row."""
    with_code = isinstance(kind, list)
    kind = str(kind[-1] if with_code and kind else kind)
    if _STAGES.match(kind):
        raise ModelUnsupported(f"{_a(kind)} has several stages; use a single-stage model")
    if "PAG" in kind:
        raise ModelUnsupported(
            f"{_a(kind)} changes attention during sampling, which rows cannot share; use a plain pipeline"
        )
    known = getattr(diffusers, kind, None)
    if not inspect.isclass(known) or not issubclass(known, diffusers.DiffusionPipeline):
        raise ModelUnsupported(
            f"diffusers {diffusers.__version__} has no pipeline class {kind}; use a text-to-image pipeline"
        )
    if with_code:
        raise ModelUnsupported(f"this {kind} brings code of its own, which is not run; use a pipeline of diffusers")
    parameters = inspect.signature(known.__call__).parameters
    foreign = next((what for name, what in _FOREIGN.items() if name in parameters), None)
    if foreign is not None and kind not in _INPAINTING:
        raise ModelUnsupported(f"{_a(kind)} {foreign}; use a text-to-image pipeline")
    missing = [name for name in _NEEDED if name not in parameters]
    if missing:
        raise ModelUnsupported(f"{_a(kind)} takes no {missing[0]}; use a text-to-image pipeline")


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIO' else 'a'} {kind}"


def load(
    source: Path | str,
    placement: DevicePlacement,
    text_encoder: TextEncoder | None = None,
    options: LoadOptions = DEFAULTS,
) -> tuple[Any, str | None]:
    """The pipeline of a folder, or a modular one, on its device, and a revision.

    It has no safety checker. A given text encoder replaces its own. `options` say how weights are stored and run; the
    revision is None if they change nothing. Raises ModelUnsupported, ModelNotFound, and errors of the libraries, see
    `load_errors`.
    """
    kind = kind_of(source)
    own = {"text_encoder": text_encoder.model, "tokenizer": text_encoder.tokenizer} if text_encoder else {}
    with quiet_libraries(), noted_gaps() as gaps:
        if isinstance(source, Path) and kind != "ModularPipeline":
            own |= _gguf_denoiser(source, options, placement)
            _complete(source, own)
        if kind == "ModularPipeline":
            _check_modular(options)
            pipe = _modular(source, placement)
        else:
            known = getattr(diffusers, kind)
            without = {"safety_checker": None, "add_watermarker": False, "requires_safety_checker": False}
            taken = inspect.signature(known.__init__).parameters
            unwanted = {name: value for name, value in without.items() if name in taken}
            quantized = acceleration.load_arguments(options, placement, _libraries(source, own))
            given = {**own, **unwanted, **quantized}
            pipe = known.from_pretrained(source, local_files_only=True, dtype=placement.dtype, **given)
        check_complete(pipe.components, gaps)
        _check_tokenizers(pipe, own)
        shared = ("text_encoder",) if text_encoder else ()
        return pipe, acceleration.apply(pipe, options, placement, shared)


def _check_tokenizers(pipe: Any, given: Iterable[str]) -> None:
    """Raise ModelNotFound for a tokenizer without words that is not `given`.

    transformers makes one if the files of its words are missing.
    """
    for name, part in pipe.components.items():
        if not name.startswith("tokenizer") or part is None or name in given:
            continue
        if not tokenization.knows(getattr(part, "tokenizer", part), _EVERYDAY_TEXT):
            raise ModelNotFound(f"the {name} knows no words: its files are missing; download or save the model again")


def _libraries(source: Path | str, given: Iterable[str]) -> dict[str, str]:
    """The library of each part with weights, by name, without those that are `given`."""
    parts = ((name, part) for name, part in _index(Path(source)).items() if isinstance(part, list) and all(part))
    return {name: part[0] for name, part in parts if name not in given and (Path(source) / name).is_dir()}


def _modular(source: Path | str, placement: DevicePlacement) -> Any:
    """A modular pipeline with all its parts.

    Parts of a hub id are downloaded if they are not in the cache. Raises ModelUnsupported if it is not text to
    image or brings its own code, ModelNotFound if a part is missing.
    """
    try:
        pipe = diffusers.ModularPipeline.from_pretrained(source, local_files_only=isinstance(source, Path))
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelUnsupported("the modular pipeline brings its own code, which is not run; use its blocks") from error
    inputs = {each.name for each in pipe.blocks.inputs}
    missing = [name for name in _NEEDED if name not in inputs]
    if missing:
        raise ModelUnsupported(f"the modular pipeline takes no {missing[0]}; use a text-to-image pipeline")
    specs = {name: each for name, each in pipe._component_specs.items() if each.pretrained_model_name_or_path}
    for name, spec in specs.items():
        if isinstance(source, Path) and (source / (spec.subfolder or name)).is_dir():
            spec.pretrained_model_name_or_path = str(source)  # the folder may have been moved since it was saved
    pipe.load_components(dtype=placement.dtype)
    lost = [name for name in specs if pipe.components.get(name) is None]
    if lost:
        raise ModelNotFound(f"parts of the modular pipeline are missing or unreadable: {', '.join(sorted(lost))}")
    return pipe


def _check_modular(options: LoadOptions) -> None:
    """Raise ModelUnsupported for options that need a standard pipeline."""
    if options.gguf:
        raise ModelUnsupported("a modular pipeline takes no GGUF file; use its standard pipeline")
    if options.quantization.startswith("bitsandbytes"):
        raise ModelUnsupported("bitsandbytes does not quantise modular pipelines here; use torchao-int8")


def _gguf_denoiser(source: Path, options: LoadOptions, placement: DevicePlacement) -> dict[str, Any]:
    """The denoiser with the GGUF file's weights, by the name of its part.

    Empty without a file. Raises ModelUnsupported.
    """
    if not options.gguf:
        return {}
    name = next((each for each in ("transformer", "unet") if each in _index(source)), None)
    if name is None:
        raise ModelUnsupported("the pipeline has no denoiser that a GGUF file could replace")
    if importlib.util.find_spec("gguf") is None:
        raise ModelUnsupported("GGUF files need gguf; install frontrunner[quantize]")
    known = getattr(diffusers, _index(source)[name][1])
    if not hasattr(known, "from_single_file"):
        raise ModelUnsupported(f"a {known.__name__} cannot be loaded from a GGUF file")
    file = _found_gguf(options.gguf)
    try:
        denoiser = known.from_single_file(
            str(file),
            config=str(source / name),
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=placement.dtype),
            dtype=placement.dtype,
        )
    except (*FILE_ERRORS, KeyError, RuntimeError, AttributeError, TypeError, IndexError) as error:
        raise ModelUnsupported(
            f"the GGUF file {file.name} does not hold the weights of this {known.__name__}; use another file"
        ) from error
    return {name: denoiser}


def _found_gguf(name: str) -> Path:
    try:
        return hub.find_file(name)
    except (OSError, ValueError, ModelNotFound) as error:
        raise ModelNotFound(f"GGUF file {Path(name).name!r} not found; use a path or OWNER/NAME/FILE") from error


def load_preview_decoder(name: str, placement: DevicePlacement) -> Any:
    """An AutoencoderTiny from a folder or a hub id, on its device.

    Raises ModelUnsupported for another class, and errors of the libraries, see `load_errors`.
    """
    with quiet_libraries():
        kind = diffusers.AutoencoderTiny.load_config(name).get("_class_name", "AutoencoderTiny")
        if kind != "AutoencoderTiny":
            raise ModelUnsupported(f"its class is {kind}; use an AutoencoderTiny, such as madebyollin/taesd")
        decoder = diffusers.AutoencoderTiny.from_pretrained(name, dtype=placement.dtype)
        check_complete({"decoder": decoder}, [])
    return decoder.to(placement.device).eval()


def check_preview_decoder(decoder: Any, pipe: Any) -> None:
    """Raise ModelUnsupported if a decoder is of other latents than the pipeline."""
    config = pipe.vae.config
    own, other = config.get("latent_channels", config.get("z_dim")), decoder.config.latent_channels
    if own is not None and own != other:
        raise ModelUnsupported(
            f"the preview decoder takes latents of {other} channels, not {own}; "
            "set FRONTRUNNER_PREVIEW_DECODER to one of this model's family"
        )
