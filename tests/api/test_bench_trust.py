"""The benches of audits and of safety against the synthetic service, and the sentences made of their figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.api.schemas.audits import _attribute
from app.cli.measuring.audit import _table
from app.engine.audits.findings import UNDETERMINED, Attribute, AuditedField, find
from models.training.data.palette import BACKGROUND_NAMES
from tests.api.kit import House
from tests.architecture import trust_figures
from tests.bench import audits, harmless, kit


def test_an_audit_is_counted_by_pixels_and_told(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_figures, "RESULTS", tmp_path / "figures.json")
    figures = audits.backgrounds(house.client, fields=3)
    share, moved = figures
    assert share.detail is not None
    assert (share.detail["fields"], share.detail["candidates"]) == (3, 3 * audits.CANDIDATES)
    assert set(share.detail["shares"]) == set(BACKGROUND_NAMES)
    assert sum(share.detail["shares"].values()) == pytest.approx(1, abs=1e-3), "pixels decide on every candidate"
    assert share.value == pytest.approx(max(share.detail["shares"].values()), abs=1e-4)
    assert moved.value is not None
    assert 0 <= moved.value <= 1
    (tmp_path / "figures.json").write_text('{"figures": []}')
    assert trust_figures.audit() == trust_figures.false_flags() == trust_figures.NONE
    kit.store(tmp_path / "figures.json", figures, {"cpu": "c", "commit": "d", "date": "e"}, "0.1-abc")
    told = trust_figures.audit()
    assert "(weights 0.1) was asked 3 times" in told
    assert f"have a {share.detail['background']} background" in told


def test_the_sentence_names_what_the_ranking_favours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detail = {"fields": 40, "candidates": 640, "background": "grey", "interval": [0.2, 0.3]}
    detail |= {"shares": {"grey": 0.25}, "ranking": {"red": ["favours", None], "blue": ["disfavours", 0.25, 0.1, 0.5]}}
    rows = [{"name": audits.NAME, "value": 0.25, "weights": "1", "detail": detail}]
    rows.append({"name": audits.MOVED, "value": 0.04})
    flags = {"pictures": 30, "flagged": ["a"], "highest": ["a", 0.91]}
    rows.append({"name": harmless.figure_name(harmless.CARRIED), "value": 1, "detail": flags})
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"figures": rows}))
    monkeypatch.setattr(trust_figures, "RESULTS", path)
    assert "ranking favours red (odds unlimited) and disfavours blue (odds 0.2)" in trust_figures.audit()
    told = trust_figures.false_flags()
    assert told == (
        "- `open-nsfw` flagged 1 of 30 pictures that installed packages carry; the highest score is 0.91, of `a`.\n"
    )


def test_a_probe_that_determines_nothing_has_no_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [AuditedField((np.asarray([0, 1, 1]),), np.asarray([True, False, False]))]
    blind = [AuditedField((np.full(3, UNDETERMINED),), each.won) for each in fields]
    background = Attribute("background", ("red", "blue"))
    (exact,), (probed,) = find([background], fields), find([background], blind)
    answer = json.loads(_attribute(probed).model_dump_json(), parse_constant=pytest.fail)
    assert answer["undetermined"]["share"] == 1.0
    assert [value["verdict"] for value in answer["values"]] == ["cannot tell"] * 2
    figure = audits._distance(answer["values"], exact.values)
    assert (figure.value, figure.reached) == (None, None)
    assert figure.detail == {"reason": "the probe determined no candidate"}
    assert " - " in kit.table([figure])
    path = tmp_path / "figures.json"
    kit.store(path, [figure], {"cpu": "c", "commit": "d", "date": "e"}, "0.1-abc")
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert document["figures"][0]["value"] is None
    detail = {"fields": 1, "candidates": 3, "background": "blue", "interval": [0.2, 0.9], "shares": {}, "ranking": {}}
    detail["shares"] = {"red": 0.33, "blue": 0.67}
    share = kit.Figure(audits.NAME, 0.67, detail=detail)
    kit.store(path, [share], {"cpu": "c", "commit": "d", "date": "e"}, "0.1-abc")
    monkeypatch.setattr(trust_figures, "RESULTS", path)
    assert "own scorer, determines no background." in trust_figures.audit()
    table = _table(answer)
    assert list(table.columns[3].cells) == ["-", "-", ""]


def test_harmless_pictures_are_those_of_packages() -> None:
    found = dict(harmless.photographs())
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in found.values())
    if "skimage: astronaut.png" in found:
        assert sum(harmless.FACES in name for name in found) == 200
