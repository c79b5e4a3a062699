"""A tuning run: sample, score, train, measure, stop; resumes after any end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ModelUnsupported
from models.generators.gradients.training import NativeTrainable
from models.protocols import StepwiseGenerator
from models.runtime.placement import fingerprint, gradient_guard
from models.tuning import stops
from models.tuning.learning import policies as adapters
from models.tuning.learning.memory import estimate_memory
from models.tuning.learning.trainer import Lesson, Trainer
from models.tuning.measures import Examiner, Measured
from models.tuning.pictures import draw_curves, draw_sheet
from models.tuning.rewards import Scores, check_independent, distillation_weights, optimality
from models.tuning.sampling import Field, FieldSampler, Sampling, seeds_of
from models.tuning.settings import RESUMABLE, TuningError
from models.tuning.state import ADAPTER, LOG, REPORT, RunFolder, damaged, unwritable
from models.tuning.stops import MIN_JUDGED, Stop
from models.tuning.task import TuningTask

Report = dict[str, Any]

_SAMPLED, _MEASURED, _FINAL = 1, 2, 4
"""Seeds of sampling, of measurements on the way, and of the last ones.

3 is that of `Trainer`, 5 that of the prompts of an iteration, 6 that of `compare`.
"""

Progress = Callable[[int, str], None]
"""Called with the finished iterations and a text."""


def tune(task: TuningTask, progress: Progress = lambda _done, _text: None) -> Report:
    """Run or resume a tuning; write adapter, log, report and pictures.

    A finished run returns its report.

    Raises TuningError, ModelUnsupported, ValueError for settings that the model does not support, and `OutOfMemory`.
    """
    check_independent(task.reward, task.referee)
    with RunFolder(task.out).exclusive(), gradient_guard():
        run = TuningRun(task, progress)
        run.begin()
        if (report := run.finished()) is not None:
            return report
        while run.stop is None:
            run.advance()
        return run.finish()


class TuningRun:
    """One run, iteration by iteration. `tune` drives it."""

    def __init__(self, task: TuningTask, progress: Progress) -> None:
        """Prepare adapters and memory; nothing is written yet."""
        settings = task.settings
        self.stop: Stop | None = None
        self.iteration = 0
        self._task, self._settings, self._progress = task, settings, progress
        self._began = time.monotonic()
        self._folder = RunFolder(task.out)
        self._trainable = _trainable(task.generator)
        self._base = fingerprint(self._trainable.denoiser)
        sampling = Sampling.of(task.generator, settings)
        self._sampler = FieldSampler(task.generator, sampling, settings.rows)
        self._policies = adapters.Policies(self._trainable, settings)
        if settings.checkpointing:
            self._trainable.denoiser.enable_gradient_checkpointing()
        texts = self._sampler.texts(max(task.prompts.trained, key=len), sampling.guidance)
        self.memory = estimate_memory(self._trainable, self._policies, sampling, texts, settings)
        self._trainer = Trainer(self._trainable, self._policies, sampling.noising(task.generator), settings)
        self._examiner, self._last = (
            Examiner(self._sampler, prompts, settings.evaluated, (task.reward, task.referee), task.others)
            for prompts in (task.prompts.selection, task.prompts.verdict)
        )
        self._history = list[Measured]()
        self._board: Any | None = None
        self._slowest = {"iteration": 0.0, "measurement": 0.0}
        self._spent = 0.0

    def begin(self) -> None:
        """Measure the base, or restore the state of an earlier run.

        Raises TuningError for one of another task, a damaged state, and as `RunFolder.begin`.
        """
        needed = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in self.memory.items())
        self._progress(0, f"memory: {needed}")
        if (judged := len(self._task.prompts.verdict)) < MIN_JUDGED:
            self._progress(0, f"the result cannot be accepted: {stops.few_prompts(judged)}")
        found = self._folder.load()
        if found is not None:
            self._resume(*found)
            return
        self._folder.begin()
        self._board = _tensorboard(self._task.out, 0)
        self._policies.use(None)
        self._measure()
        self._save()

    def _resume(self, tensors: dict[str, Any], facts: dict[str, Any]) -> None:
        """Restore a state.

        A run that has reached a limit ends; its last iterations are measured before.
        """
        try:
            self._check_task(facts)
            self._history = [Measured(**each) for each in facts["history"]]
            self._examiner.restore(facts["limits"])
            self.iteration, self._spent, self._slowest = facts["iteration"], facts["seconds"], facts["slowest"]
            self._policies.restore({key: each for key, each in tensors.items() if not key.startswith("optimizer/")})
            self._trainer.restore({key: each for key, each in tensors.items() if key.startswith("optimizer/")})
            diverged = facts["diverged"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged() from error
        self._folder.rewind(self.iteration)
        self._progress(self.iteration, f"resumed after iteration {self.iteration}")
        if diverged is not None:
            self.stop = Stop("diverged", diverged)
            return
        self.stop = stops.find_stop(self._history) or self._done()
        unmeasured = self._history[-1].iteration < self.iteration
        if self.stop is None or unmeasured:
            self._board = _tensorboard(self._task.out, self.iteration + 1)
        if self.stop is not None and unmeasured:
            self._judge()
            self.stop = stops.find_stop(self._history) or self.stop
            self._save()

    def _check_task(self, facts: dict[str, Any]) -> None:
        stored, own = facts["task"], self._task.identity()
        names = [name for name in own if stored.get(name) != own[name]]
        if not names:
            return
        if "settings" in names:
            settings = asdict(self._settings)
            changed = [name for name, value in facts["options"].items() if settings[name] != value]
            names[names.index("settings")] = f"settings: {' '.join(each for each in changed if each not in RESUMABLE)}"
        raise TuningError(
            f"--out holds a run of another task ({', '.join(names)}): give what it began with, or use another folder"
        )

    def finished(self) -> Report | None:
        """The report of an earlier call with these options.

        None if it ended elsewhere.
        """
        if self.stop is None or not (self._task.out / ADAPTER).is_file():
            return None
        known = self._folder.read_json(REPORT)
        own = {"iterations": self.iteration, "options": asdict(self._settings), **self._task.identity()}
        return known if known is not None and own.items() <= known.items() else None

    def advance(self) -> None:
        """One iteration: sample, score, train, move the policies, measure if due, save."""
        began = time.monotonic()
        place = self.iteration + 1
        lessons, facts = self._lessons(place)
        trained = self._trainer.train(lessons, place)
        self._policies.blend(adapters.PREVIOUS, adapters.TUNED, min(0.001 * place, 0.5))
        self.iteration = place
        if not np.isfinite([trained["loss"], trained["gradient"]]).all():
            why = f"the loss or the gradient of iteration {place} is not finite: use a smaller --rate"
            self.stop = Stop("diverged", why)
            self._save()
            return
        seconds = time.monotonic() - began
        self._slowest["iteration"] = max(self._slowest["iteration"], seconds)
        self._record({"iteration": place, **trained, **facts, "seconds": round(seconds, 3)})
        self._progress(place, f"loss {trained['loss']:.4f}, reward {facts['reward']:.4f}")
        ended = self._done()
        if ended is not None or place % self._settings.evaluate_every == 0:
            self._judge()
        self.stop = stops.find_stop(self._history) or ended
        self._save()

    def finish(self) -> Report:
        """Measure base and result on the prompts of the verdict.

        Writes adapter, report and pictures.
        """
        assert self.stop is not None
        place = stops.choose(self._history)
        chosen = adapters.AVERAGE if place is None else adapters.BEST
        sheets: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self._last.restore(self._examiner.facts())
        last = []
        for name, sheet in zip((None, chosen), sheets, strict=True):
            self._policies.use(name)
            last.append(self._last.measure(self.iteration, self._settings.seed, _FINAL, sheet=sheet))
        self._policies.use(None)
        tensors = self._policies.export(chosen, self._trainable.placement.dtype)
        self._folder.save_adapter(self._trainable.pipe, self._trainable.part, tensors)
        draw_sheet(self._task.out / "sheet.png", *sheets)
        rows = [each.row() for each in self._history]
        used = None if place is None else self._history[place].iteration
        report = {
            **stops.verdict(*last, is_sound=place is not None, personal=self._task.reward.personal),
            "stop": asdict(self.stop),
            "iterations": self.iteration,
            "chosen": used,
            "adapter": ADAPTER,
            "base_untouched": fingerprint_of_base(self._trainable.denoiser) == self._base,
            **self._task.identity(),
            "options": asdict(self._settings),
            "memory": self.memory,
            "seconds": round(self._seconds(), 1),
            "measurements": rows,
            "final": {"base": last[0].row(), "tuned": last[1].row()},
            "curves": "curves.png" if draw_curves(self._task.out / "curves.png", rows, used) else None,
            "sheet": "sheet.png",
            "log": LOG,
        }
        self._folder.write_json(REPORT, report)
        if self._board is not None:
            self._board.close()
        return report

    def _lessons(self, place: int) -> tuple[list[Lesson], dict[str, Any]]:
        """Scored fields of an iteration, and what the log says of them.

        Raises TuningError if all are useless.
        """
        online = self._settings.method == "nft"
        self._policies.use(adapters.PREVIOUS if online else None)
        value = optimality if online else distillation_weights
        lessons, rewards, spreads, skipped, gone = [], list[float](), list[float](), 0, 0
        for drawn in self._fields(place):
            if drawn is None:
                gone += 1
                continue
            scores = self._task.reward.score(drawn.prompt, drawn.images)
            values = value(scores, drawn.votes)
            known = scores[np.isfinite(scores)]
            if len(known):
                rewards.append(float(known.mean()))
                spreads.append(float(known.std()))
            if self._trainer.usable(values).any():
                lessons.append(self._lesson(drawn, values))
            else:
                skipped += 1
        if gone and not rewards:
            raise TuningError(
                "the files of all stored generations of this iteration are gone or damaged: use another --out, which "
                "learns from those that are left"
            )
        if not rewards:
            raise TuningError(
                f"the reward {self._task.reward.id!r} scored no candidate with a number: name another one"
            )
        if not lessons and place == 1:
            raise TuningError(
                f"the rewards of {self._task.reward.id!r} are constant within each of the {skipped} prompts of the "
                "first iteration, so there is nothing to learn: name another reward, or use more prompts or candidates"
            )
        means = {"reward": float(np.mean(rewards)), "spread": float(np.mean(spreads))}
        counts = {"fields": len(lessons), "skipped": skipped} | ({"gone": gone} if gone else {})
        return lessons, means | counts

    def _lesson(self, drawn: Field, values: Scores) -> Lesson:
        text, negative = self._sampler.texts(drawn.prompt, drawn.guidance, drawn.negative_prompt)
        return Lesson(text, self._trainable.clean(drawn.latents), values, drawn.guidance, negative)

    def _fields(self, place: int) -> Iterable[Field | None]:
        """The fields of an iteration: stored ones first, then new ones.

        Distillation takes stored ones again and again. None stands for a stored field without usable latents.
        """
        settings, stored = self._settings, self._task.stored
        first = (place - 1) * settings.prompts
        if stored and (settings.method == "bon" or first < len(stored)):
            taken = [stored[(first + i) % len(stored)] for i in range(min(settings.prompts, len(stored)))]
            return (self._sampler.stored(each) for each in taken)
        rng = np.random.default_rng((settings.seed, 5, place))
        known = self._task.prompts.trained
        chosen = [known[i] for i in rng.permutation(len(known))[: settings.prompts]]
        seeds = [seeds_of(settings.seed, _SAMPLED, place, i, count=settings.candidates) for i in range(len(chosen))]
        return self._sampler.draw(chosen, settings.candidates, seeds)

    def _judge(self) -> None:
        """Measure the average of the adapters, and keep it if no earlier one is better."""
        self._policies.use(adapters.AVERAGE)
        self._measure()
        if stops.choose(self._history) == len(self._history) - 1:
            self._policies.copy(adapters.AVERAGE, adapters.BEST)

    def _measure(self) -> None:
        began = time.monotonic()
        self._history.append(self._examiner.measure(self.iteration, self._settings.seed, _MEASURED))
        self._slowest["measurement"] = max(self._slowest["measurement"], time.monotonic() - began)
        self._policies.use(None)
        row = self._history[-1].row()
        self._record({**row, "measured": True})
        texts = (f"{name} {row[name]:.4f}" for name in ("reward", "referee", "best", "diversity"))
        self._progress(self.iteration, "held out: " + ", ".join(texts))

    def _record(self, line: dict[str, Any]) -> None:
        self._folder.log(line)
        if self._board is not None:
            place = int(line["iteration"])
            group = "held_out" if "measured" in line else "training"
            scalars = {f"{group}/{name}": value for name, value in line.items() if isinstance(value, float)}
            try:
                for name, value in scalars.items():
                    self._board.add_scalar(name, value, place)
            except OSError as error:
                raise unwritable(self._task.out / "tensorboard", error) from error

    def _done(self) -> Stop | None:
        """Whether iterations or minutes are used up.

        A measurement, the two of the verdict and an iteration still fit.
        """
        settings = self._settings
        if self.iteration >= settings.iterations:
            return Stop("iterations", f"all iterations are done: {settings.iterations}")
        prompts = self._task.prompts
        measurements = 1.1 + 2.1 * len(prompts.verdict) / len(prompts.selection)
        reserve = measurements * self._slowest["measurement"] + 1.5 * self._slowest["iteration"]
        if settings.minutes is not None and self._seconds() + reserve > 60 * settings.minutes:
            return Stop("minutes", f"{settings.minutes:g} minutes are used")
        return None

    def _save(self) -> None:
        facts = {
            "task": self._task.identity(),
            "options": asdict(self._settings),
            "diverged": self.stop.why if self.stop is not None and self.stop.rule == "diverged" else None,
            "iteration": self.iteration,
            "seconds": self._seconds(),
            "slowest": self._slowest,
            "history": [asdict(each) for each in self._history],
            "limits": self._examiner.facts(),
        }
        self._folder.save({**self._policies.tensors(), **self._trainer.tensors()}, facts)

    def _seconds(self) -> float:
        """Seconds of this run, those of earlier processes included."""
        return self._spent + time.monotonic() - self._began


def _trainable(generator: StepwiseGenerator) -> NativeTrainable:
    """The denoiser of a model.

    Raises ModelUnsupported for one without a native loop, or whose pipeline takes no adapters.
    """
    make = getattr(generator, "trainable", None)
    if make is None:
        raise ModelUnsupported(f"{generator.info.id!r} has no native loop, so it cannot be tuned: use another model")
    found: NativeTrainable = make()
    if not hasattr(found.pipe, "save_lora_weights"):
        raise ModelUnsupported(f"{type(found.pipe).__name__} takes no LoRA adapters, so it cannot be tuned")
    return found


def fingerprint_of_base(denoiser: Any) -> str:
    """The fingerprint of a denoiser without its adapters."""

    class Bare:
        """The denoiser's own tensors, by the names that they had without adapters."""

        @staticmethod
        def state_dict() -> dict[str, Any]:
            return {
                name.replace(".base_layer.", "."): tensor
                for name, tensor in denoiser.state_dict().items()
                if ".lora_" not in name
            }

    return fingerprint(Bare())


def _tensorboard(folder: Path, iteration: int) -> Any | None:
    """A writer for TensorBoard where it is installed.

    What an earlier process wrote of this iteration and later ones is hidden.
    """
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"), purge_step=iteration)
    return None
