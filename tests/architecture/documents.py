"""Tables and figures of the documents that come from code or from stored results.

A document holds them between `<!-- begin NAME -->` and `<!-- end NAME -->`. `make docs` writes them anew;
`test_documents.py` fails when one is stale.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from app.api import problems
from app.cli.measuring.reliability import reliability_plot
from app.errors import FrontrunnerError
from app.main import create_app
from app.metrics import COUNTERS, GAUGES, HTTP, MODELS
from app.settings import ENV_PREFIX, Settings
from models.calibration_io import match_from_json
from models.protocols import MatchCalibration
from tests.architecture import client_types, measured, trust_figures
from tests.contract.families import FAMILIES, IMAGE_TO_IMAGE

ROOT = Path(__file__).parents[2]
PACK = ROOT / "models" / "packs" / "pictogram"
RELIABILITY = PACK / "reliability.svg"
RESULTS = ROOT / "tests" / "bench" / "results" / "pictogram.json"
DOCUMENTS = (
    "README.md",
    "README.ru.md",
    "app/README.md",
    "app/api/README.md",
    "models/README.md",
    "tests/bench/README.md",
)
BLOCK = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def settings() -> str:
    """Every setting with its default."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        rows.append((f"`{ENV_PREFIX}{name.upper()}`", default, str(field.description)))
    return _table(("setting", "default", "meaning"), rows)


def metrics() -> str:
    """Every metric."""
    return _table(
        ("metric", "meaning"), [(f"`{name}`", text) for name, text in {**GAUGES, **COUNTERS, **MODELS, **HTTP}.items()]
    )


def routes() -> str:
    """Every documented route with its summary."""
    with tempfile.TemporaryDirectory() as folder:
        document = create_app(Settings(data_dir=Path(folder))).openapi()
    rows = [
        (f"`{method.upper()} {path}`", str(operation["summary"]))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return _table(("route", "what"), rows)


def errors() -> str:
    """Every error code with its status and meaning."""
    found = {kind.code: (kind.status, _first_line(kind)) for kind in _kinds(FrontrunnerError)}
    for status, code in problems.HTTP_CODES.items():
        found.setdefault(code, (status, f"HTTP: {HTTPStatus(status).phrase}."))
    found["invalid_json"] = (400, "The body is not JSON.")
    found["uri_too_long"] = (414, "The address is longer than 64 KiB.")
    found["headers_too_large"] = (431, "Headers or trailers are longer than 64 KiB, or there are more than 256.")
    found["internal_error"] = (500, "A defect of the service: report it with the answer's `X-Request-Id`.")
    ordered = sorted(found.items(), key=lambda item: (item[1][0], item[0]))
    return _table(("code", "status", "when"), [(f"`{code}`", str(status), text) for code, (status, text) in ordered])


def performance() -> str:
    """What pruning buys on the embedded model, in English."""
    return _PERFORMANCE.format(**_figures())


def performance_ru() -> str:
    """The same in Russian."""
    return _PERFORMANCE_RU.format(**_figures())


def bench() -> str:
    """Every stored figure."""
    rows = []
    for figure in _stored()["figures"]:
        asked = next((f"{word} {_short(figure[key])}" for key, word in _BOUNDS if key in figure), "")
        reached = {True: "yes", False: "**no**", None: ""}[figure.get("reached")]
        rows.append((figure["name"], _short(figure["value"]), figure.get("against", ""), asked, reached))
    return _table(("figure", "value", "against", "asked", "reached"), rows)


def families() -> str:
    """Every family that the suite of pipelines builds, and what it is compared with."""
    rows = [
        (
            f"`{family.pipeline}`",
            " and ".join(family.paths),
            f"`{IMAGE_TO_IMAGE[name]}`" if name in IMAGE_TO_IMAGE else ("entry" if family.from_pictures else "refused"),
        )
        for name, family in FAMILIES.items()
    ]
    return _table(("pipeline, compared alone", "steps by", "image to image, compared with"), rows)


def probability() -> str:
    """How exact the probability of a match is on the embedded pack."""
    match, pack = _match(), json.loads((PACK / "pack.json").read_text())
    prompts = len((PACK / "prompts.txt").read_text("utf-8").splitlines())
    easy = sum(weight for mean, _, weight in match.reliability if not 0.1 <= mean <= 0.9)
    return _PROBABILITY.format(
        version=pack["version"], prompts=prompts, easy=f"{easy:.0%}".replace("%", " %"), match=match
    )


def reliability() -> str:
    """The plot of it."""
    return reliability_plot(_match())


def _match() -> MatchCalibration:
    found = match_from_json(json.loads((PACK / "pack.json").read_text())["match"])
    assert found is not None
    return found


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "routes": routes,
    "errors": errors,
    "performance": performance,
    "performance-ru": performance_ru,
    "bench": bench,
    "families": families,
    "ensembles": measured.ensembles,
    "ensembles-verdicts": measured.verdicts,
    "steering": measured.steering,
    "probability": probability,
    "audit": trust_figures.audit,
    "false-flags": trust_figures.false_flags,
}
_BOUNDS = (("at_most", "≤"), ("at_least", "≥"))

_PROBABILITY = """\
For the embedded pack (weights {version}, {prompts} prompts) the expected calibration error is {match.error:.3f} on
{match.pairs:,} held-out pairs, and the noise of a score is {match.noise:.4f}. {easy} of the pairs are easy:
their probability is below 0.1 or above 0.9.
"""
_PERFORMANCE = """\
On the embedded model the best of 16 with pruning takes {best16} of the wall time of a diffusers and open_clip script
that makes all 16, and the best of 64 takes {best64}. They keep {kept16} and {kept64} of the best-of-N gain. Unpruned,
the best of 16 takes {whole}. One candidate beside 64 others arrives after {beside} times its time alone. Medians of
{runs} paired runs, weights {weights}, {machine}.
"""
_PERFORMANCE_RU = """\
На встроенной модели лучший из 16 с отсевом занимает {best16} времени скрипта на diffusers и open_clip, который делает
все 16, лучший из 64 — {best64}. Сохраняется {kept16} и {kept64} выигрыша от выбора лучшего. Без отсева лучший из 16
занимает {whole}. Один кандидат рядом с 64 чужими готов через {beside} своего обычного времени. Медианы {runs} парных
замеров, веса {weights}, {machine}.
"""


def render(text: str) -> str:
    """A document with every block as it should be. Raises KeyError for a block of an unknown name."""
    return BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], text)


def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(RESULTS.read_text())
    return stored


def _figures() -> dict[str, str]:
    by_name = {figure["name"]: figure for figure in _stored()["figures"]}
    first = by_name["best of 16, pruned: wall time"]

    def value(name: str, digits: int = 2) -> str:
        return f"{by_name[name]['value']:.{digits}f}"

    return {
        "best16": value("best of 16, pruned: wall time"),
        "best64": value("best of 64, pruned: wall time"),
        "kept16": value("best of 16, pruned: gain kept"),
        "kept64": value("best of 64, pruned: gain kept"),
        "whole": value("best of 16, unpruned: wall time"),
        "beside": value("1 candidate beside 64: time to its result", 1),
        "runs": str(first["runs"]),
        "weights": first["weights"].split("-")[0],
        "machine": first["machine"],
    }


def _kinds(root: type[FrontrunnerError]) -> Iterator[type[FrontrunnerError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


def _first_line(kind: type[FrontrunnerError]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _short(value: float) -> str:
    return f"{value:.3g}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    """Write every block of every document, and the generated sources of the clients."""
    client_types.main()
    RELIABILITY.write_text(reliability(), "utf-8")
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text("utf-8")
        path.write_text(render(text), "utf-8")


if __name__ == "__main__":
    main()
