"""`python -m tests.bench.ensembles`: best of N by several scorers and by one, by the outside judge and by pixels.

`--part paired`: every way of ranking chooses from the same 16 finished candidates of a prompt. The main scorer alone
also chooses from as many as equal device seconds allow: members cost time that could make candidates. `--part large`:
the judge's value of the winner among more and more candidates, up to 1,024 of a prompt. `--part variants`: 16
candidates over four wordings against 16 of the prompt alone, ranked by the prompt. Fields go to `ensembles.jsonl` in
`--out`, a line each. A run takes the fields that are missing, within `--take` and `--minutes`, and states the figures
of all prompts that are whole in `ensembles.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from app.engine.ranking.near_misses import COLOURS
from app.service.presets import DEFAULT_PRESETS_PATH, Presets, preset_wordings
from models.pack import pack_in, packs
from models.training.data import icons
from tests.bench import ensemble_figures as figures
from tests.bench.ensemble_figures import Field, Part
from tests.bench.fields import Bench, Deadline, Wanted, add_arguments, read_rows
from tests.bench.kit import machine

SEED = 70_000
PAIRED, EXTRA = 16, 16
"""Candidates that all ways choose from, and further ones for equal device seconds."""

LARGE, CHUNK = 1024, 64
"""Candidates of a prompt of the large part, and of one of its fields."""

PROMPTS: dict[Part, int] = {"paired": 200, "large": 20, "variants": 100}
WORDINGS = 4
PLAIN = ("{}", "a picture of {}", "a drawing of {}", "{}, simple icon")
"""Wordings that a user may write."""

Key = tuple[int, int, str]


def prompts_of(names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Prompts with a thing and a coloured background, each with its colour.

    The judge knows the thing, pixels show the colour, near misses exchange both.
    """
    random = np.random.default_rng(SEED)
    usable = [name for name in names if " on a" not in name]
    chosen = random.permutation(len(usable))[:count]
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(chosen))]
    return [
        (f"{_with_article(usable[i])} on {_with_article(colour)} background", colour)
        for i, colour in zip(chosen, colours, strict=True)
    ]


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def wordings(prompt: str, styles: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The arms of the variants: the prompt, presets as `{"auto": 4}` takes them, plain words, the pack's styles."""
    found = {"one": (), "presets": (prompt, *preset_wordings(prompt, Presets.read(DEFAULT_PRESETS_PATH)))[:WORDINGS]}
    found["plain"] = tuple(text.format(prompt) for text in PLAIN)
    if styles:
        found["styles"] = (prompt, *(f"{prompt}, {style}" for style in styles))[:WORDINGS]
    return found


def wanted_fields(part: Part, asked: argparse.Namespace) -> list[list[Wanted]]:
    """The fields of a part, by prompt."""
    count = asked.prompts or PROMPTS[part]
    made = []
    for place, (prompt, colour) in enumerate(prompts_of(icons.pack_names(), count)):
        seed = SEED + place * LARGE
        if part == "variants":
            arms = wordings(prompt, _styles(asked.pack))
            fields = [Wanted(place, 0, arm, prompt, colour, PAIRED, seed, each) for arm, each in arms.items()]
        else:
            size, total = (CHUNK, asked.candidates) if part == "large" else (PAIRED + EXTRA, PAIRED + EXTRA)
            fields = [
                Wanted(place, first, "", prompt, colour, min(size, total - first), seed + first)
                for first in range(0, total, size)
            ]
        made.append(fields)
    return made


def _styles(name: str) -> tuple[str, ...]:
    pack = packs().get(name) or pack_in(Path(name))
    return pack.styles.phrases if pack is not None and pack.styles is not None else ()


def stored_fields(path: Path, part: Part, key: str, wanted: Sequence[Sequence[Wanted]]) -> dict[Key, Field]:
    """The wanted fields of this part and these models that are in the file.

    Those of other prompts or of another number of candidates are left out: other options or an earlier list of names
    made them.
    """
    sizes = {each.key: (each.prompt, each.count) for fields in wanted for each in fields}
    found = dict[Key, Field]()
    for row in read_rows(path):
        place = row["place"], row["first"], row["arm"]
        if row["part"] == part and row["models"] == key and place in sizes:
            field = Field.from_json(row["field"])
            if (field.prompt, len(field.judged)) == sizes[place]:
                found[place] = field
    return found


def fill(bench: Bench, rows: Path, part: Part, missing: Sequence[Wanted], key: str, deadline: Deadline) -> None:
    """Measure fields, some at a time, until all are in the file or the time is over."""
    size = max(1, bench.together // max((each.count for each in missing), default=1))
    with rows.open("a") as file:
        for start in range(0, len(missing), size):
            if deadline.is_over:
                return
            group = missing[start : start + size]
            for each, field in zip(group, bench.measured(group), strict=True):
                place, first, arm = each.key
                row = {"part": part, "models": key, "place": place, "first": first, "arm": arm}
                print(json.dumps(row | {"field": field.to_json()}), file=file, flush=True)
            print(f"{part}: {min(start + size, len(missing))} of {len(missing)} fields", flush=True)


def result(part: Part, wanted: Sequence[Sequence[Wanted]], found: dict[Key, Field]) -> dict[str, Any] | None:
    """The figures of the prompts of which all fields are measured; None of fewer than two."""
    whole = [fields for fields in wanted if all(each.key in found for each in fields)]
    if len(whole) < 2:  # an error needs two
        return None
    if part == "paired":
        made = figures.paired([found[fields[0].key] for fields in whole], PAIRED)
    elif part == "large":
        made = figures.curves({each.key[:2]: found[each.key] for fields in whole for each in fields})
    else:
        arms = [each.arm for each in whole[0]]
        made = figures.variants({arm: [found[fields[i].key] for fields in whole] for i, arm in enumerate(arms)})
    candidates = sum(each.count for each in whole[0]) if part == "large" else LARGE
    return made | {"complete": (len(whole), candidates) == (PROMPTS[part], LARGE)}


def main() -> None:
    """Measure the fields that are missing; then print, store and draw what there is."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ensembles", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--part", nargs="+", choices=get_args(Part), default=list(get_args(Part)))
    parser.add_argument("--scorers", nargs="*", default=[], help="members beside the pack's own scorers")
    parser.add_argument("--prompts", type=int, default=None, help="default: 200, large 20, variants 100")
    parser.add_argument("--candidates", type=int, default=LARGE, help="candidates of a prompt in the large part")
    parser.add_argument("--draw", action="store_true", help="only draw what is stored in --out")
    asked = parser.parse_args()
    out: Path = asked.out / "ensembles.json"
    if asked.draw:
        _draw(out)
        return
    deadline = Deadline(asked.minutes)
    asked.out.mkdir(parents=True, exist_ok=True)
    bench = Bench.load(asked, asked.scorers)
    panel = {each.info.id: each.info.revision for each in (bench.models.scorer, *bench.models.members)}
    key = json.dumps({"generator": bench.models.generator.info.revision, **panel})
    rows = asked.out / "ensembles.jsonl"
    for part in asked.part:
        wanted = wanted_fields(part, asked)
        known = stored_fields(rows, part, key, wanted)
        missing = [each for fields in wanted for each in fields if each.key not in known]
        fill(bench, rows, part, missing[: asked.take], key, deadline)
        made = result(part, wanted, stored_fields(rows, part, key, wanted))
        if made is None:
            print(f"{part}: too few prompts are measured; run it again")
            continue
        stored = json.loads(out.read_text()) if out.exists() else {}
        here = {"machine": machine(), "device": bench.models.generator.info.device, "models": json.loads(key)}
        out.write_text(json.dumps(stored | {part: here | made}, indent=1) + "\n")
        print(json.dumps(made, indent=1), flush=True)


def _draw(out: Path) -> None:
    from tests.bench import plots

    print(plots.draw_over_optimisation(out, json.loads(out.read_text())["large"]))


if __name__ == "__main__":
    main()
