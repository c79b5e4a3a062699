"""Random LoRA adapters of tiny pipelines, made without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.families import FAMILIES

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def save_adapter(family: str, path: Path, seed: int, *, texts: bool = False) -> None:
    """Write an adapter with random weights for a family; `texts`: it changes the first text encoder too."""
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from models.generators.adapters import loading

    pipe = FAMILIES[family].build(family)
    torch.manual_seed(seed)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    layers = {}
    for name, targets in [(part, TARGETS), *([("text_encoder", ["q_proj", "v_proj"])] if texts else [])]:
        module = getattr(pipe, name)
        with loading():
            module.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=targets))
        layers[f"{name}_lora_layers"] = {
            key: value.clone().contiguous() for key, value in get_peft_model_state_dict(module).items()
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    type(pipe).save_lora_weights(path.parent, weight_name=path.name, **layers)


def stock_pipe(family: str, folder: Path, loras: dict[str, float]) -> Any:
    """A stock pipeline with these adapters of the folder."""
    from models.generators.adapters import loading

    pipe = FAMILIES[family].build(family)
    with loading():
        for name in loras:
            pipe.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
        pipe.set_adapters(list(loras), list(loras.values()))
    return pipe
