"""`frontrunner generate --interactive`: a dialogue about a field of candidates, a command a line.

Owns the commands and the way back. A terminal is asked line by line; from a pipe each line is a command.
"""

from __future__ import annotations

import importlib
import io
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.cli import client as remote
from app.cli import output, rerank
from app.cli.client import Client, Complaint, Json

COMMANDS = (
    ("prompt WORDS", "compare with other words from now on"),
    ("avoid WORDS; WORDS", "mark down for these in place of the others; alone: for nothing"),
    ("weight NUMBER", "how much what is to be avoided counts, 0 to 10"),
    ("diversity NUMBER", "keep near-duplicates apart, 0 to 1"),
    ("best NUMBER", "how many are returned"),
    ("like 1 3, dislike 2", "vote by place; the votes join the ranking"),
    ("taste on, taste off", "whether the votes join the ranking"),
    ("refine 2 0.4 WORDS", "sample anew from the one at place 2; strength and words may be left out"),
    ("back", "to the list before"),
    ("list", "show the list again"),
    ("save FOLDER", "write the best, the sheet and the whole dialogue; alone: to --out"),
    ("quit", "or the end of input"),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A ranked list: the service's `answer`, its sheet, and what was `asked` beyond the generation's own ranking."""

    answer: Json
    sheet: Path
    asked: Json


class Dialogue:
    """See the module. `votes` names the profile that keeps the votes; without it they are forgotten at the end."""

    def __init__(self, client: Client, first: Json, out: Path, votes: str | None, screens: tuple[Console, Console]):
        self._client = client
        self._out = out
        self._console, self._progress = screens
        self._turns = [Turn(first, out / "sheet.png", {})]
        self._shown = 1
        self._profile = votes or f"dialogue-{first['id'].removeprefix('gen_')}"
        self._forgets = votes is None
        self._voted = False
        self._commands: dict[str, Callable[[str], None]] = {
            "prompt": self._prompt,
            "avoid": self._avoid,
            "weight": lambda said: self._rank_by(negative_weight=_number(said)),
            "diversity": lambda said: self._rank_by(diversity=_number(said)),
            "best": lambda said: self._rerank(n=_whole(said)),
            "like": lambda said: self._vote("liked", said),
            "dislike": lambda said: self._vote("disliked", said),
            "taste": self._taste,
            "refine": self._refine,
            "back": self._back,
            "list": lambda _: self._show(),
            "save": self._save,
            "help": lambda _: self._help(),
        }

    def run(self, lines: Iterable[str]) -> int:
        """Do what the lines say, until one says quit; how many were refused. Raises what the connection raises."""
        refused = 0
        try:
            for line in lines:
                name, _, said = line.strip().partition(" ")
                if name in {"quit", "exit"}:
                    break
                try:
                    self._do(name, said.strip())
                except Complaint as complaint:
                    refused += 1
                    self._say(f"frontrunner: {complaint}")
        finally:
            self._forget_votes()
        return refused

    def _do(self, name: str, said: str) -> None:
        if not name:
            return
        if name not in self._commands:
            raise Complaint(f"there is no command {name!r}; help lists what there is")
        self._commands[name](said)

    # what is asked of the candidates that are there

    def _prompt(self, said: str) -> None:
        if not said:
            raise Complaint("prompt wants words to compare with")
        self._rank_by(prompt=said)

    def _avoid(self, said: str) -> None:
        texts = [text.strip() for text in said.split(";") if text.strip()]
        self._rank_by(negatives=[{"text": text} for text in texts])

    def _vote(self, how: str, said: str) -> None:
        places = [_whole(word) for word in said.split()]
        if not places:
            raise Complaint("places in the list are wanted, such as 1 3")
        now = self._turns[-1].answer
        ballot = {"generation": now["id"], how: [remote.index_at(now, place) for place in places]}
        remote.ask(self._client, "POST", f"/v1/taste/{self._profile}/votes", ballot)
        self._voted = True
        self._taste("on")

    def _taste(self, said: str) -> None:
        if said == "on":
            self._rank_by(taste={"profile": self._profile})
        elif said == "off":
            self._rank_by(taste={"profile": self._profile, "weight": 0.0})
        else:
            raise Complaint("taste is on or off")

    def _rank_by(self, **changes: object) -> None:
        self._rerank(ranking={**self._turns[-1].asked.get("ranking", {}), **changes})

    def _rerank(self, **changes: object) -> None:
        asked = self._turns[-1].asked | changes
        self._next(rerank.rerank(self._client, self._turns[-1].answer["id"], asked), asked)

    # what makes a generation

    def _refine(self, said: str) -> None:
        """`PLACE [STRENGTH] [WORDS]`."""
        words = said.split()
        if not words:
            raise Complaint("refine wants a place in the list, such as 1")
        index = remote.index_at(self._turns[-1].answer, _whole(words.pop(0)))
        body: Json = {"index": index}
        if words and _is_number(words[0]):
            body["strength"] = _number(words.pop(0))
        if words:
            body["prompt"] = " ".join(words)
        events = rerank.refine(self._client, self._kept()["id"], body)
        self._next(output.follow(events, self._progress), {})

    def _save(self, said: str) -> None:
        out = Path(said).expanduser() if said else self._out
        now = self._kept()
        written = remote.save(self._client, now, out)
        written.append(remote.save_lineage(self._client, now["id"], out / "dialogue.json"))
        for path in written:
            self._say(f"wrote {path}")
        self._say(f"generation {now['id']}")

    def _kept(self) -> Json:
        """The list as a generation that the service keeps, so that it is part of the dialogue."""
        now = self._turns[-1]
        if now.asked:
            answer = rerank.rerank(self._client, now.answer["id"], now.asked | {"store": True})
            self._turns[-1] = Turn(answer, now.sheet, {})
        return self._turns[-1].answer

    # showing

    def _back(self, _: str) -> None:
        if len(self._turns) == 1:
            raise Complaint("this is where it began")
        self._turns.pop()
        self._show()

    def _next(self, answer: Json, asked: Json) -> None:
        path = self._out / f"sheet-{self._shown + 1:02}.png"
        self._turns.append(Turn(answer, remote.save_sheet(self._client, answer, path), asked))
        self._shown += 1
        self._show()

    def _show(self) -> None:
        turn = self._turns[-1]
        self._say(output.question(turn.answer))
        self._console.print(output.candidates(turn.answer))
        self._say(f"sheet {turn.sheet}")

    def _help(self) -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for usage, told in COMMANDS:
            table.add_row(usage, told)
        self._console.print(table)

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _forget_votes(self) -> None:
        if self._voted and self._forgets:
            remote.ask(self._client, "DELETE", f"/v1/taste/{self._profile}")


def typed(console: Console) -> Iterator[str]:
    """Lines of standard input, asked for in a terminal, shown as they are taken from a pipe."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if sys.stdin.isatty():
        with suppress(ImportError):  # line editing, where there is any
            importlib.import_module("readline")
        with suppress(EOFError):
            while True:
                yield input("frontrunner> ")
        return
    for line in sys.stdin:
        console.print(f"frontrunner> {line.rstrip()}", soft_wrap=True, highlight=False, markup=False)
        yield line


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _number(word: str) -> float:
    if not _is_number(word):
        raise Complaint(f"{word!r} is not a number")
    return float(word)


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise Complaint(f"{word!r} is not a whole number")
    return int(word)
