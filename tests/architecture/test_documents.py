"""Documents hold what code and stored results say, in both languages."""

from __future__ import annotations

import re

import pytest

from tests.architecture import documents

FENCE = re.compile(r"```\w*\n.*?```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
ENGLISH = tuple(name for name in documents.DOCUMENTS if name != "README.ru.md")


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_generated_blocks_are_current(name: str) -> None:
    text = (documents.ROOT / name).read_text("utf-8")
    assert documents.render(text) == text, "run `make docs`"
    assert documents.BLOCK.search(text)


def test_the_plot_of_the_probability_is_current() -> None:
    assert documents.RELIABILITY.read_text("utf-8") == documents.reliability(), "run `make docs`"


def test_both_readmes_have_the_same_code() -> None:
    english, russian = ((documents.ROOT / name).read_text("utf-8") for name in ("README.md", "README.ru.md"))
    assert _code(russian) == _code(english)


def test_the_readme_stays_short() -> None:
    words = re.sub(r"```.*?```", "", (documents.ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL).split()
    assert len(words) <= 1500


@pytest.mark.parametrize("name", [*documents.DOCUMENTS, "models/README.md", "CONTRIBUTING.md", "docker/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = documents.ROOT / name
    missing = [link for link in LINK.findall(path.read_text("utf-8")) if not (path.parent / link).exists()]
    assert missing == []


def test_the_picture_of_the_architecture_shows_real_rooms() -> None:
    picture = (documents.ROOT / "README.md").read_text("utf-8").split("```mermaid")[1].split("```")[0]
    rooms = re.findall(r'\["((?:app|models)/[\w./]+)', picture)
    assert len(rooms) >= 8
    assert [room for room in rooms if not (documents.ROOT / room).exists()] == []


def _code(text: str) -> list[str]:
    """Code blocks without comments, which are translated; the picture's labels are too."""
    blocks = [block for block in FENCE.findall(text) if not block.startswith("```mermaid")]
    return [re.sub(r"(?m) +#.*$|(?<=\S) {3,}\S.*$", "", block) for block in blocks]
