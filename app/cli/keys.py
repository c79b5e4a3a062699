"""`frontrunner keys add | list | revoke`: API keys in the database that the settings name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from app.cli.client import Complaint
from app.errors import StoreUnavailable
from app.service import ApiKey, Right, new_key
from app.settings import Settings, complaints
from app.stores.api_keys import KeyStore
from app.stores.generations import Database
from app.stores.privacy import private_folder

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    help="API keys, in the database of `FRONTRUNNER_DATA_DIR` or `FRONTRUNNER_DATABASE_URL`. The first one closes the "
    "service to whoever has none; running replicas learn of a change within two seconds.",
)


@app.command()
def add(
    name: Annotated[str, typer.Option(help="Whose it is, for the list.")],
    rights: Annotated[list[Right], typer.Option("--right", help="What it allows; may be given several times.")] = [  # noqa: B006
        Right.GENERATE,
        Right.RANK,
        Right.READ,
    ],
    quota: Annotated[int | None, typer.Option(min=1, help="Candidates that may be asked for in a window.")] = None,
    per: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Length of a window.")] = 3600,
) -> None:
    """Make a key and show it, once: only its hash is kept.

    **Examples**

    `frontrunner keys add --name cms`

    `frontrunner keys add --name trial --right read --right generate --quota 500 --per 86400`
    """
    key, told = new_key(name, rights, quota, per)
    _run(lambda store: store.add(key))
    typer.echo(f"key             {told}\nwebhook secret  {key.secret}")
    typer.echo("Keep both now; the key cannot be shown again.", err=True)


@app.command(name="list")
def show() -> None:
    """Every key, without what is secret of it."""
    table = Table(Column("id", no_wrap=True), "name", "rights", "quota", "made", "revoked")
    for key in _run(lambda store: store.keys()):
        quota = "" if key.quota is None else f"{key.quota} in {key.window_s} s"
        table.add_row(key.id, escape(key.name), _rights(key), quota, _day(key.created), _day(key.revoked))
    Console().print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]) -> None:
    """Refuse a key from now on. What it made stays, and stays its own."""
    if not _run(lambda store: store.revoke(key_id, time.time())):
        typer.echo(f"frontrunner: there is no good key {key_id}", err=True)
        raise typer.Exit(1)


def _rights(key: ApiKey) -> str:
    return ", ".join(sorted(key.rights))


def _day(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _run(use: Callable[[KeyStore], Awaitable[T]]) -> T:
    """What `use` gives. A store or setting that cannot be used is one line and exit code 1."""
    try:
        return asyncio.run(_with_store(Settings(), use))
    except ValidationError as error:
        told = "; ".join(complaints(error))
    except (StoreUnavailable, Complaint) as error:
        told = str(error)
    typer.echo(f"frontrunner: {told}", err=True)
    raise typer.Exit(1)


async def _with_store(settings: Settings, use: Callable[[KeyStore], Awaitable[T]]) -> T:
    if not settings.database_url:
        try:
            private_folder(settings.data_dir)
        except OSError as error:
            raise Complaint("the data folder cannot be made or is not allowed to be written") from error
    database = await Database.open(settings.database)
    try:
        return await use(KeyStore(database.connections))
    finally:
        await database.close()
