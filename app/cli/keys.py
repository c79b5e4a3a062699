"""`frontrunner keys add | list | revoke | rotate-links`: keys in the database."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from app.cli.client import CliError
from app.cli.verify import development_certificate
from app.errors import StoreUnavailable
from app.service import ApiKey, Permission, create_api_key
from app.settings import Settings, format_errors
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlGenerationStore
from app.stores.privacy import private_folder

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    help="Manage API keys in the database of `FRONTRUNNER_DATA_DIR` or `FRONTRUNNER_DATABASE_URL`. Once a key exists, "
    "every request requires one. Running replicas apply a change within two seconds.",
)


app.command(name="development-certificate")(development_certificate)


@app.command()
def add(
    name: Annotated[str, typer.Option(help="Name of the key's owner, shown by `list`.")],
    rights: Annotated[list[Permission], typer.Option("--right", help="Permission; repeatable.")] = [  # noqa: B006
        Permission.GENERATE,
        Permission.RANK,
        Permission.READ,
    ],
    quota: Annotated[int | None, typer.Option(min=1, help="Maximum candidates per window.")] = None,
    per: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Length of the window.")] = 3600,
) -> None:
    """Create a key and show it once; the database stores only its hash.

    **Examples**

    `frontrunner keys add --name cms`

    `frontrunner keys add --name trial --right read --right generate --quota 500 --per 86400`
    """
    key, told = create_api_key(name, rights, quota, per)
    _run(lambda store: store.add(key))
    typer.echo(f"key             {told}\nwebhook secret  {key.secret}")
    typer.echo("Save both now; the key cannot be shown again.", err=True)


@app.command(name="list")
def show() -> None:
    """List all keys without their secrets."""
    table = Table(Column("id", no_wrap=True), "name", "rights", "quota", "made", "revoked")
    for key in _run(lambda store: store.list_keys()):
        quota = "" if key.quota is None else f"{key.quota} in {key.window_s} s"
        table.add_row(
            key.id, escape(key.name), _permissions(key), quota, _format_date(key.created), _format_date(key.revoked)
        )
    Console().print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="Key id, as shown by `list`.")]) -> None:
    """Revoke a key. Its generations stay and still belong to it."""
    if not _run(lambda store: store.revoke(key_id, time.time())):
        typer.echo(f"frontrunner: no active key has the id {key_id}: see `frontrunner keys list`", err=True)
        raise typer.Exit(1)


@app.command(name="rotate-links")
def rotate_links() -> None:
    """Sign image links with a new key. Earlier links stay valid until they expire.

    Two rotations end all earlier links.
    """
    _run(lambda store: store.rotate_link_secret(secrets.token_urlsafe(32), time.time()))


def _permissions(key: ApiKey) -> str:
    return ", ".join(sorted(key.permissions))


def _format_date(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _run(use: Callable[[SqlApiKeyStore], Awaitable[T]]) -> T:
    """Return the result of `use`; a store or settings error exits with code 1."""
    try:
        return asyncio.run(_with_store(Settings(), use))
    except ValidationError as error:
        told = "; ".join(format_errors(error))
    except (StoreUnavailable, CliError) as error:
        told = str(error)
    typer.echo(f"frontrunner: {told}", err=True)
    raise typer.Exit(1)


async def _with_store(settings: Settings, use: Callable[[SqlApiKeyStore], Awaitable[T]]) -> T:
    if not settings.database_url:
        try:
            private_folder(settings.data_dir)
        except OSError as error:
            raise CliError("data_dir cannot be created or written: check its path and permissions") from error
    database = await SqlGenerationStore.open(settings.database, options=settings.database_options)
    try:
        return await use(SqlApiKeyStore(database.connections))
    finally:
        await database.close()
