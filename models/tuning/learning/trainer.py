"""Optimizer steps on fields of candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.generators.gradients.training import NativeTrainable
from models.protocols import Conditioning, Schedule
from models.tuning.learning.losses import NoisyRows, distance, distillation_loss, nft_loss
from models.tuning.learning.policies import AVERAGE, PREVIOUS, TUNED, Policies
from models.tuning.rewards import Scores
from models.tuning.settings import TuningSettings

_GRADIENT_NORM = 1.0
_WEIGHT_DECAY = 1e-4
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A field to learn from: latents, float32 (N, C, h, w), and values (N,).

    Candidates whose value is NaN are unusable. `guidance` and `negative` are those that the candidates were sampled
    with; the trained prediction is the guided one, as the sampling policy is. None: unguided.
    """

    prompt: Conditioning
    latents: Any
    values: Scores
    guidance: float
    negative: Conditioning | None = None


class Trainer:
    """Changes the adapter `TUNED` of a denoiser, and moves `AVERAGE` after it.

    All randomness follows from the seed and the iteration.
    """

    def __init__(
        self,
        trainable: NativeTrainable,
        policies: Policies,
        schedule: Schedule,
        settings: TuningSettings,
    ) -> None:
        """`schedule` has the noise levels."""
        self._trainable, self._policies, self._settings = trainable, policies, settings
        device = trainable.placement.device
        columns = np.column_stack([schedule.entry, schedule.table[:, [0, 1, 4, 5]]])
        self._levels = torch.from_numpy(columns.astype(np.float32)).to(device)
        self._optimizer = torch.optim.AdamW(policies.trained, lr=settings.rate, weight_decay=_WEIGHT_DECAY)

    def train(self, lessons: Sequence[Lesson], iteration: int) -> dict[str, float]:
        """Take the optimizer steps of an iteration.

        Returns mean loss, gradient norm and rows.

        A loss or a gradient that is not finite ends the steps, and is returned.
        """
        losses, norms, count = [], [], 0
        parts = list(self.batches(lessons, iteration))
        for start in range(0, len(parts), self._settings.accumulation):
            group = parts[start : start + self._settings.accumulation]
            for rows, taught, t, c_in in group:
                loss = self.loss(rows, taught, t, c_in)
                (loss / len(group)).backward()
                losses.append(float(loss.detach()))
                count += len(taught)
            norms.append(float(torch.nn.utils.clip_grad_norm_(self._policies.trained, _GRADIENT_NORM)))
            if not np.isfinite([*losses[-len(group) :], norms[-1]]).all():
                self._optimizer.zero_grad(set_to_none=True)
                break
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._policies.blend(AVERAGE, TUNED, self._settings.decay)
        self._policies.use(None)
        mean = {name: float(np.mean(each)) if each else 0.0 for name, each in (("loss", losses), ("gradient", norms))}
        return {**mean, "rows": count}

    def batches(self, lessons: Sequence[Lesson], iteration: int) -> Iterator[tuple[NoisyRows, list[Lesson], Any, Any]]:
        """Rows of an iteration in batches, with their lessons.

        Times and input factors follow. The order follows from the iteration.
        """
        rng = np.random.default_rng((self._settings.seed, 3, iteration))
        rows = [
            (lesson, index)
            for lesson in lessons
            for index in np.flatnonzero(self.usable(lesson.values))
            for _ in range(self._settings.timesteps)
        ]
        order, levels = rng.permutation(len(rows)), rng.integers(0, len(self._levels), len(rows))
        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        for start in range(0, len(rows), self._settings.batch):
            places = order[start : start + self._settings.batch]
            chosen = [rows[place] for place in places]
            clean = torch.stack([lesson.latents[index] for lesson, index in chosen])
            value = torch.tensor([lesson.values[index] for lesson, index in chosen], dtype=torch.float32)
            noise = torch.randn(clean.shape, generator=draw).to(clean.device)
            signal, scale, t, c_in, c, d = self._levels[torch.from_numpy(levels[places])].T
            x = _column(signal) * clean + _column(scale) * noise
            made = NoisyRows(x, clean, _column(c), _column(d), value.to(clean.device))
            yield made, [lesson for lesson, _ in chosen], t, c_in

    def loss(self, rows: NoisyRows, taught: Sequence[Lesson], t: Any, c_in: Any) -> Any:
        """Mean loss of a batch with gradients, for `batches`."""
        settings, kept = self._settings, [PREVIOUS] if self._settings.method == "nft" else []
        x = _column(c_in) * rows.x
        fixed = dict[str | None, Any]()
        with torch.no_grad():
            for name in [*kept, *([None] if settings.kl else [])]:
                fixed[name] = self._predicted(name, x, t, taught)
        tuned = self._predicted(TUNED, x, t, taught)
        if settings.method == "nft":
            loss = nft_loss(rows, tuned, fixed[PREVIOUS], settings.beta)
        else:
            loss = distillation_loss(rows, tuned)
        return (loss + settings.kl * distance(tuned, fixed[None]) if settings.kl else loss).mean()

    def _predicted(self, name: str | None, x: Any, t: Any, taught: Sequence[Lesson]) -> Any:
        """Predictions of an adapter as its samples were guided."""
        self._policies.use(name)
        guidance = torch.tensor([each.guidance for each in taught], dtype=t.dtype, device=t.device)
        texts, negatives = [each.prompt for each in taught], [each.negative for each in taught]
        return self._trainable.predict(x, t, guidance, texts, negatives)

    def usable(self, values: Scores) -> Any:
        """Which candidates of these values teach, bool (N,)."""
        return np.isfinite(values) if self._settings.method == "nft" else np.nan_to_num(values) > 0

    def tensors(self) -> dict[str, Any]:
        """The optimizer's state on the host."""
        return {
            f"optimizer/{place}/{name}": self._optimizer.state[parameter][name].detach().cpu().clone()
            for place, parameter in enumerate(self._policies.trained)
            if parameter in self._optimizer.state
            for name in _MOMENTS
        }

    def restore(self, tensors: dict[str, Any]) -> None:
        """Set the optimizer's state from `tensors`."""
        state = dict[int, dict[str, Any]]()
        for key, tensor in tensors.items():
            _, place, name = key.split("/")
            state.setdefault(int(place), {})[name] = tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})


def _column(values: Any) -> Any:
    return values[:, None, None, None]
