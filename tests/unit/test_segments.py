"""Messages between coordinator and workers: they survive bytes, and hold nothing else."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from app.domain import Checkpoint, Notice, Score
from app.engine.config import EngineConfig
from app.engine.latent_codec import encode_init_latents
from app.engine.segments import codec
from app.engine.segments.core import SegmentCore
from app.engine.segments.messages import Segment, SegmentDone, SegmentRow
from models.protocols.image_inputs import Control, ImageInputs, Inpainting
from models.protocols.portable import is_portable
from models.protocols.steering import SteeringSettings
from models.synthetic.generator import FakeGenerator
from tests.unit.cluster_kit import Faults, KeepingGenerator, models
from tests.unit.engine_kit import spec

CUTS = (Checkpoint(2, 2), Checkpoint(4, 1))


def finished(segment: Segment, core: SegmentCore | None = None) -> SegmentDone:
    ends: list[SegmentDone] = []
    core = core or SegmentCore(models(), EngineConfig(), clock=lambda: 0.0)
    core.submit_segment(segment, 0.0, ends.append, lambda _: None)
    while not core.idle:
        core.tick()
    return ends[0]


def whole_message() -> Segment:
    pixels = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)
    latents = FakeGenerator().encode_image(pixels[None])[0]
    one = spec(
        n_candidates=4,
        checkpoints=CUTS,
        start=encode_init_latents(latents, 0.5),
        masked=True,
        steering=SteeringSettings(0.05),
        wordings=("a", "b"),
    )
    inputs = ImageInputs(Inpainting(pixels, latents, pixels[..., 0] > 9), (Control("edges", pixels, 0.5),))
    return Segment("gen_a.0", one, 0, (SegmentRow(0), SegmentRow(3, {"x": latents.astype(np.float32)})), inputs)


def packages_in(data: bytes) -> set[str]:
    found = set[str]()

    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add(module.split(".")[0])
            return super().find_class(module, name)

    Recorder(io.BytesIO(data)).load()
    return found


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, tuple | list):
        for mine, theirs in zip(one, other, strict=True):
            assert_equal(mine, theirs)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_equal(value, other[name])
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            assert_equal(getattr(one, name), getattr(other, name))
    elif one == one:
        assert one == other


def test_messages_come_back_as_they_were_and_name_no_library_but_numpy() -> None:
    segment = whole_message()
    result = finished(Segment("s", spec(checkpoints=CUTS), 0, (SegmentRow(0), SegmentRow(2))))
    assert all(row.state is not None and not row.finished for row in result.rows)
    for message in (segment, result):
        data = codec.encode(message)
        assert_equal(codec.decode(data), message)
        assert packages_in(data) <= {"app", "models", "numpy"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        pickle.dumps(print),
        pickle.dumps(np.load),
        codec.encode(Notice("a", "b"))[:-8],
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no message"):
        codec.decode(data)


def test_a_segment_ends_at_the_next_checkpoint_and_continues_elsewhere() -> None:
    one = spec(checkpoints=CUTS)
    first = finished(Segment("s0", one, 0, tuple(SegmentRow(i) for i in range(4))))
    assert {(row.step, row.finished) for row in first.rows} == {(2, False)}
    assert (first.work.rows_stepped, first.work.previews, first.calls_made) == (8, 4, 6)
    rows = tuple(SegmentRow(row.index, row.state) for row in first.rows[:2])
    second = finished(Segment("s1", one, 2, rows))
    assert {(row.step, row.finished) for row in second.rows} == {(4, False)}
    last = finished(Segment("s2", one, 4, (SegmentRow(1, second.rows[1].state),)))
    assert [(row.index, row.step, row.finished, row.state) for row in last.rows] == [(1, 6, True, None)]
    assert isinstance(last.rows[0].score, Score)


def test_a_row_without_a_state_is_made_again_from_its_seed() -> None:
    one = spec(checkpoints=CUTS)
    begun = finished(Segment("s0", one, 0, (SegmentRow(2),)))
    continued = finished(Segment("s1", one, 2, (SegmentRow(2, begun.rows[0].state),)))
    again = finished(Segment("s2", one, 2, (SegmentRow(2),)))
    np.testing.assert_array_equal(again.rows[0].embedding, continued.rows[0].embedding)
    assert (continued.work.rows_stepped, again.work.rows_stepped) == (2, 4)
    assert again.work.previews == 1


def test_latents_that_cannot_travel_are_kept_until_their_generation_ends() -> None:
    one, keeping = spec(checkpoints=CUTS), KeepingGenerator("w", Faults(), 0.0)
    assert not is_portable(cast(object, keeping))
    core = SegmentCore(replace(models(), generator=keeping), EngineConfig())
    first = finished(Segment("s0", one, 0, (SegmentRow(2),)), core)
    assert first.rows[0].state is None
    assert finished(Segment("s1", one, 2, (SegmentRow(2),)), core).work.rows_stepped == 2
    core.forget(one.id)
    assert finished(Segment("s2", one, 2, (SegmentRow(2),)), core).work.rows_stepped == 4
