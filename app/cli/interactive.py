"""`frontrunner generate --interactive`: commands on a ranked list, one a line.

Owns the commands and the history of lists. Commands come from a terminal or from a pipe.
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
from app.cli.client import CliError, Json
from frontrunner import ApiError, Client

COMMANDS = (
    ("prompt TEXT", "compare with another text"),
    ("avoid TEXT; TEXT", "replace the negatives; without a text: remove them"),
    ("weight NUMBER", "weight of the penalty, 0 to 10"),
    ("diversity NUMBER", "separate near-duplicates, 0 to 1"),
    ("best NUMBER", "number of images to return"),
    ("like 1 3, dislike 2", "vote by place; votes change the ranking"),
    ("taste on, taste off", "whether votes change the ranking"),
    ("refine 2 0.4 TEXT", "sample new candidates from place 2; strength and prompt are optional"),
    ("back", "return to the previous list"),
    ("list", "show the list again"),
    ("save FOLDER", "write the best images, the sheet and the lineage; default folder: --out"),
    ("quit", "end; so does the end of input"),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A ranked list.

    `answer` is the service's response, `sheet` the contact sheet, `changes` the change to the generation's ranking.
    """

    answer: Json
    sheet: Path
    changes: Json


class InteractiveSession:
    """Runs the commands.

    `votes` names the profile that stores votes; None deletes them at the end.
    """

    def __init__(self, client: Client, first: Json, out: Path, votes: str | None, consoles: tuple[Console, Console]):
        self._client = client
        self._out = out
        self._console, self._progress = consoles
        self._turns = [Turn(first, out / "sheet.png", {})]
        self._sheets_shown = 1
        self._profile = votes or f"dialogue-{first['id'].removeprefix('gen_')}"
        self._temporary_profile = votes is None
        self._voted = False
        self._commands: dict[str, Callable[[str], None]] = {
            "prompt": self._prompt,
            "avoid": self._avoid,
            "weight": lambda argument: self._rank_by(negative_weight=_number(argument)),
            "diversity": lambda argument: self._rank_by(diversity=_number(argument)),
            "best": lambda argument: self._rerank(n=_integer(argument)),
            "like": lambda argument: self._vote("liked", argument),
            "dislike": lambda argument: self._vote("disliked", argument),
            "taste": self._taste,
            "refine": self._refine,
            "back": self._back,
            "list": lambda _: self._show(),
            "save": self._save,
            "help": lambda _: self._help(),
        }

    def run(self, lines: Iterable[str]) -> int:
        """Run commands until `quit`; return how many failed. Connection errors propagate."""
        refused = 0
        try:
            for line in lines:
                name, _, argument = line.strip().partition(" ")
                if name in {"quit", "exit"}:
                    break
                try:
                    self._execute(name, argument.strip())
                except (CliError, ApiError) as error:
                    refused += 1
                    self._print(f"frontrunner: {error}")
        finally:
            self._delete_votes()
        return refused

    def _execute(self, name: str, argument: str) -> None:
        if not name:
            return
        if name not in self._commands:
            raise CliError(f"unknown command {name!r}: `help` lists the commands")
        self._commands[name](argument)

    # commands that re-rank

    def _prompt(self, argument: str) -> None:
        if not argument:
            raise CliError("prompt requires a text, such as `prompt a red apple`")
        self._rank_by(prompt=argument)

    def _avoid(self, argument: str) -> None:
        texts = [text.strip() for text in argument.split(";") if text.strip()]
        self._rank_by(negatives=[{"text": text} for text in texts])

    def _vote(self, how: str, argument: str) -> None:
        places = [_integer(word) for word in argument.split()]
        if not places:
            raise CliError("like and dislike require places in the list, such as 1 3")
        now = self._turns[-1].answer
        ballot: Json = {"generation": now["id"], how: [remote.index_at_place(now, place) for place in places]}
        self._client.vote(self._profile, **ballot)
        self._voted = True
        self._taste("on")

    def _taste(self, argument: str) -> None:
        if argument == "on":
            self._rank_by(taste={"profile": self._profile})
        elif argument == "off":
            self._rank_by(taste={"profile": self._profile, "weight": 0.0})
        else:
            raise CliError("taste requires on or off")

    def _rank_by(self, **changes: object) -> None:
        self._rerank(ranking={**self._turns[-1].changes.get("ranking", {}), **changes})

    def _rerank(self, **changes: object) -> None:
        all_changes = self._turns[-1].changes | changes
        self._add_turn(rerank.request_rerank(self._client, self._turns[-1].answer["id"], all_changes), all_changes)

    # commands that create a generation

    def _refine(self, argument: str) -> None:
        """Refine a candidate; `said` is `PLACE [STRENGTH] [PROMPT]`."""
        words = argument.split()
        if not words:
            raise CliError("refine requires a place in the list, such as 1")
        index = remote.index_at_place(self._turns[-1].answer, _integer(words.pop(0)))
        body: Json = {"index": index}
        if words and _is_number(words[0]):
            body["strength"] = _number(words.pop(0))
        if words:
            body["prompt"] = " ".join(words)
        events = rerank.stream_refine(self._client, self._stored_answer()["id"], body)
        self._add_turn(output.show_progress(events, self._progress), {})

    def _save(self, argument: str) -> None:
        out = Path(argument).expanduser() if argument else self._out
        now = self._stored_answer()
        written = remote.save_images(self._client, now, out)
        written.append(remote.save_lineage(self._client, now["id"], out / "dialogue.json"))
        for path in written:
            self._print(f"wrote {path}")
        self._print(f"generation {now['id']}")

    def _stored_answer(self) -> Json:
        """Store the list as a generation, so that it is part of the lineage; return it."""
        now = self._turns[-1]
        if now.changes:
            answer = rerank.request_rerank(self._client, now.answer["id"], now.changes | {"store": True})
            self._turns[-1] = Turn(answer, now.sheet, {})
        return self._turns[-1].answer

    # output

    def _back(self, _: str) -> None:
        if len(self._turns) == 1:
            raise CliError("there is no previous list")
        self._turns.pop()
        self._show()

    def _add_turn(self, answer: Json, changes: Json) -> None:
        path = self._out / f"sheet-{self._sheets_shown + 1:02}.png"
        self._turns.append(Turn(answer, remote.save_sheet(self._client, answer, path), changes))
        self._sheets_shown += 1
        self._show()

    def _show(self) -> None:
        turn = self._turns[-1]
        self._print(output.ranking_summary(turn.answer))
        self._console.print(output.candidates_table(turn.answer))
        for line in output.warning_lines(turn.answer):
            self._print(line)
        self._print(f"sheet {turn.sheet}")

    def _help(self) -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for usage, description in COMMANDS:
            table.add_row(usage, description)
        self._console.print(table)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _delete_votes(self) -> None:
        if self._voted and self._temporary_profile:
            self._client.delete_taste(self._profile)


def read_lines(console: Console) -> Iterator[str]:
    """Yield lines of standard input: with a prompt in a terminal, echoed from a pipe."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if sys.stdin.isatty():
        with suppress(ImportError):  # line editing, where available
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
        raise CliError(f"{word!r} is not a number: use one such as 0.5")
    return float(word)


def _integer(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise CliError(f"{word!r} is not a whole number: use one such as 2")
    return int(word)
