"""Texts in code and documents are plain technical English, as far as a test can tell."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PENDING: tuple[str, ...] = ()
"""Folders that are not converted yet. Only remove entries."""

HISTORY = ("CHANGELOG.md", "models/packs/pictogram/CARD.md", "models/training/evaluation/card.template.md")
"""Documents that record the past in its own words."""

FIRST_LINE = 80
SENTENCE_WORDS = 30
BANNED = re.compile(
    r"\b(told|tells|manners?|company|mends?|strangers?|forsaken?|whoever|nobody|foretells?|foretold|anew"
    r"|what is left|bears|bear with)\b",
    re.IGNORECASE,
)
CODE = re.compile(r"`[^`]*`")
GENERATED = {"node_modules", "dist", "runs"}
SCRIPT_TEXT = re.compile(r"/\*.*?\*/|//[^\n]*|\"[^\"\n]*\"|'[^'\n]*'|`[^`]*`|(?<=>)[^<>{}=;()]+(?=<)", re.DOTALL)


def _found(*patterns: str) -> list[Path]:
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path for path in paths if not any(_hidden(part) for part in path.relative_to(ROOT).parts))


def _hidden(part: str) -> bool:
    return part in GENERATED or part.startswith(".")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _excluded(path: Path) -> bool:
    """Whether a file is pending, or made of texts that are tested where they stand."""
    return _name(path) == "frontrunner/types.py" or (
        path.suffix == ".py" and any(_name(path).startswith(f"{folder}/") for folder in PENDING)
    )


PYTHON = [path for path in _found("app/**/*.py", "frontrunner/**/*.py", "models/**/*.py") if not _excluded(path)]
SCRIPTS = _found("app/studio/src/**/*.ts", "app/studio/src/**/*.tsx", "app/studio/src/**/*.css")
CONFIGURATION = _found("Dockerfile", "docker-compose.yml", "docker/*.yml", "docker/*.cfg", "docker/*.conf")
DOCUMENTS = [path for path in _found("**/*.md") if _name(path) not in HISTORY]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def _docstrings(path: Path) -> list[str]:
    """Docstrings of modules, classes, functions and constants."""
    return [
        node.value.value
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def _texts(path: Path) -> Iterator[str]:
    """Comments, docstrings and every other string, without embedded expressions and quoted code."""
    text = path.read_text("utf-8")
    if any(BANNED.search(line) for line in re.findall("#.*", text)):  # tokens are slow to find
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield CODE.sub("", token.string)
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield CODE.sub("", node.value)


def _sentences(text: str) -> Iterator[str]:
    """Sentences of the paragraphs; indented lines, such as formulas, are no prose."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"(?m)^ {4,}.*$", "", _dedented(text))):
        yield from re.split(r"(?<=[.!?])[)\"`]*\s+", paragraph.strip())


def _dedented(text: str) -> str:
    lines = text.expandtabs().splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
    return "\n".join([lines[0].strip(), *(line[margin:] for line in lines[1:])]) if lines else ""


def _words(sentence: str) -> int:
    return sum(bool(re.search(r"[^\W\d_]", word)) for word in sentence.split())


def _faults(paths: Iterable[Path], faults: Callable[[Path], list[str]]) -> dict[str, list[str]]:
    """What is wrong in each file, without files where nothing is."""
    return {_name(path): found for path in paths if (found := faults(path))}


def test_python_uses_no_banned_word() -> None:
    assert _faults(PYTHON, lambda path: [text for text in _texts(path) if BANNED.search(text)]) == {}


def test_the_studio_and_containers_use_no_banned_word() -> None:
    def faults(path: Path) -> list[str]:
        text = path.read_text("utf-8")
        parts = SCRIPT_TEXT.findall(text) if path in SCRIPTS else re.findall(r"(?m)#.*$", text)
        return [part for part in parts if BANNED.search(re.sub(r"\$\{[^}]*\}|(?<=\s)`[^`]*`", "", part))]

    assert _faults([*SCRIPTS, *CONFIGURATION], faults) == {}


def test_documents_use_no_banned_word() -> None:
    def faults(path: Path) -> list[str]:
        return [line for line in path.read_text("utf-8").splitlines() if BANNED.search(line)]

    assert _faults(DOCUMENTS, faults) == {}


def test_first_lines_of_docstrings_are_short() -> None:
    def faults(path: Path) -> list[str]:
        first = [text.strip().splitlines()[0] for text in _docstrings(path)]
        return [line for line in first if len(line) > FIRST_LINE]

    assert _faults(PYTHON, faults) == {}


def test_sentences_of_docstrings_are_short() -> None:
    def faults(path: Path) -> list[str]:
        sentences = [sentence for text in _docstrings(path) for sentence in _sentences(text)]
        return [sentence for sentence in sentences if _words(sentence) > SENTENCE_WORDS]

    assert _faults(PYTHON, faults) == {}


def test_files_are_found() -> None:
    assert min(map(len, (PYTHON, SCRIPTS, CONFIGURATION, DOCUMENTS))) > 5


def test_pending_folders_exist() -> None:
    assert [folder for folder in PENDING if not (ROOT / folder).is_dir()] == []
