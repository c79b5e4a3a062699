"""`frontrunner verify` and `frontrunner keys development-certificate`.

Both work on files alone, without a service.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.client import CliError
from app.imaging.provenance import CertificateError, Report, TrustList, development_pair, read

NAMES = ("c2pa.pem", "c2pa.key", "c2pa-root.pem")
"""Files of a development certificate: chain, key, root."""

Files = Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.")]
Trust = Annotated[Path | None, typer.Option(help="PEM certificates of authorities to trust.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")]


def verify(files: Files, trust: Trust = None, as_json: AsJson = False) -> None:
    """Show what image files say about their origin, and whether it still holds.

    Exit code 1 if a file has no manifest or was changed.

    **Examples**

    `frontrunner verify demo/1.png`

    `frontrunner verify --trust c2pa-root.pem --json *.png`
    """
    try:
        known = TrustList.configured(trust, None)
        reports = {path: read(_data(path), known) for path in files}
    except CertificateError as error:
        raise CliError(str(error)) from None
    for path, report in reports.items():
        if as_json:
            typer.echo(json.dumps({"file": str(path), **asdict(report)}))
        else:
            Console().print(_table(path, report))
    if any(report.state in {"none", "invalid"} for report in reports.values()):
        raise typer.Exit(1)


def development_certificate(
    folder: Annotated[Path, typer.Argument(help="Folder for the three files.")] = Path(),
) -> None:
    """Make a C2PA certificate for development: no reader trusts it by itself.

    Existing files are never replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(NAMES, development_pair(), strict=True):
        try:
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise CliError(f"cannot write {folder / name}: {error.strerror}; name another folder") from None
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    chain, key, root = (folder / name for name in NAMES)
    typer.echo(
        f"FRONTRUNNER_C2PA_CERTIFICATE={chain}\nFRONTRUNNER_C2PA_KEY={key}\n"
        f"Readers that trust {root} show files of this service as trusted."
    )


def _data(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from None


def _table(path: Path, report: Report) -> Table:
    table = Table(title=escape(str(path)), show_header=False, title_justify="left")
    said: dict[str, Any] = {
        "state": report.state,
        "signer": report.signer,
        "generator": report.generator,
        "made by a model": "yes" if report.generated else None,
        "actions": ", ".join(report.actions),
        "made from": ", ".join(report.ingredients),
        "problems": ", ".join(report.problems),
        **{f"parameters.{name}": value for name, value in (report.parameters or {}).items()},
    }
    for name, value in said.items():
        if value is not None and value != "":
            table.add_row(_shown(name), _shown(value))
    return table


def _shown(value: object) -> str:
    """A text of a file, which may be anybody's, without control characters and markup."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)))
