"""The studio lets people choose between several models."""

from __future__ import annotations

from pathlib import Path

from tests.api.kit import running, until
from tests.models_kit import FakeModel, Shelf
from tests.system.studio_kit import Browser, expect, needs_browser, opened, raced

SELECT = 'label.field:has(> span:text-is("Model")) select'


@needs_browser
def test_the_composer_selects_one_of_several_models(browser: Browser, tmp_path: Path) -> None:
    shelf = Shelf(FakeModel("large"), FakeModel("small"), FakeModel("idle", resident=False))
    with running(tmp_path, registry=shelf.registry) as house, opened(browser, house) as page:
        chosen = page.locator(SELECT)
        expect(chosen).to_have_value("large")
        expect(chosen.locator("option")).to_have_text(["large", "small", "idle (loads first)"])
        before = shelf.models["large"].calls, shelf.models["small"].calls
        chosen.select_option("small")
        raced(page)
        until(lambda: shelf.models["small"].calls > before[1])
        assert shelf.models["large"].calls == before[0]
        page.reload()
        expect(page.locator(SELECT)).to_have_value("small")
    with running(tmp_path / "one") as house, opened(browser, house) as page:
        raced(page)
        expect(page.locator(SELECT)).to_have_count(0)
