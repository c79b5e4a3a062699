"""`frontrunner audit`: what candidates show, and what the ranking favours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.client import CliError, Json
from app.cli.local_server import service_at

TIMEOUT_S = 3600.0
"""Seconds that an audit of prompts may take."""


def run_audit(url: str | None, body: Json, attributes: Sequence[str], console: Console, *, as_json: bool) -> None:
    """Audit at the service, and print the answer. Raises CliError."""
    body["attributes"] = [_attribute(each) for each in attributes]
    if bool(body.get("prompts")) == bool(body.get("generations")):
        raise CliError("name prompts, or --generation: one of both")
    with service_at(url, Console(stderr=True)) as client:
        found: Any = client.with_options(timeout=TIMEOUT_S).audit(**body)
    if as_json:
        typer.echo(json.dumps(found))
        return
    ranks = ", which took part in the ranking" if found["probe_ranks"] else ""
    about = f"{found['candidates']} candidates, {found['winners']} winners, {len(found['generations'])} generations"
    console.print(f"{about}; probe {found['probe']}{ranks}", soft_wrap=True, highlight=False, markup=False)
    for attribute in found["attributes"]:
        console.print(_table(attribute))
    for warning in found["warnings"]:
        console.print(f"warning: {warning['detail']}", soft_wrap=True, highlight=False, markup=False)


def _attribute(option: str) -> Json:
    """An attribute of the form `NAME=TEXT|TEXT`. Raises CliError."""
    name, equals, texts = option.partition("=")
    values = [text.strip() for text in texts.split("|")]
    if not (equals and name.strip() and len(values) > 1 and all(values)):
        raise CliError(f"--attribute {option}: write NAME=TEXT|TEXT with two texts or more")
    return {"name": name.strip(), "values": values}


def _table(attribute: Json) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column(escape(attribute["name"]))
    for name in ("candidates", "winners", "odds", "p", "ranking"):
        table.add_column(name, justify="right" if name != "ranking" else "left")
    for value in attribute["values"]:
        odds = value["ranking"]
        spread = f"{_number(odds['odds'])} ({_number(odds['low'])} to {_number(odds['high'])})"
        spread = spread if odds["fields"] else "-"
        shares = (_share(value["candidates"]), _share(value["winners"]))
        table.add_row(escape(value["text"]), *shares, spread, f"{odds['p_adjusted']:.3g}", value["verdict"])
    table.add_row("undetermined", _share(attribute["undetermined"]), _share(attribute["undetermined_winners"]))
    return table


def _share(share: Json) -> str:
    if share["share"] is None:
        return "-"
    return f"{share['share']:.0%} ({share['low']:.0%} to {share['high']:.0%})"


def _number(value: float | None) -> str:
    return "unlimited" if value is None else f"{value:.2f}"
