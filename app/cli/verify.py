"""`frontrunner verify` and `frontrunner keys development-certificate`.

Both work on files alone, without a service.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.client import CliError
from app.errors import FrontrunnerError
from app.imaging import decoding, encoding
from app.imaging.infotext import parse_infotext
from app.imaging.provenance import CertificateError, Report, TrustList, development_pair, read
from app.imaging.provenance.receipts import ReceiptReport, check_receipt, is_receipt

NAMES = ("c2pa.pem", "c2pa.key", "c2pa-root.pem")
"""Files of a development certificate: chain, key, root."""

NO_MANIFEST = "the file has no C2PA manifest: nothing proves its origin"
UNSIGNED = "not signed: anyone can change it"

MADE_BY = ("prompt", "seed", "model")
"""What is shown of unsigned metadata."""

MAX_PIXELS = 2**31
"""Above the pixels of any image: only its metadata is read."""

MAX_CHARS = 2**20
"""Maximum characters of a text of metadata: JSON that is cut cannot be read."""

Files = Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files, or receipts.")]
Trust = Annotated[
    Path | None, typer.Option(help="PEM certificates to trust; for receipts, those of signers, or a key.")
]
Receipt = Annotated[Path | None, typer.Option(help="Receipt that should name the image files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")]


def verify(files: Files, trust: Trust = None, receipt: Receipt = None, as_json: AsJson = False) -> None:
    """Show what image files say about their origin, and whether it still holds.

    Receipts are shown with what contradicts them. Of a file without a manifest, the prompt, seed and model of its
    unsigned metadata are shown. With --receipt, image files need no manifest: each must be the file of a candidate.
    Exit code 1 if a file has no manifest, was changed, or is not of the receipt.

    **Examples**

    `frontrunner verify demo/best-01.png`

    `frontrunner verify --trust c2pa-root.pem --json *.png`

    `frontrunner verify --receipt receipt.json best.png`
    """
    contents = {path: _data(path) for path in files}
    receipts = {path: data for path, data in contents.items() if is_receipt(data)}
    keys = _data(trust) if trust is not None else None
    try:
        found: dict[Path, Report | ReceiptReport] = {p: check_receipt(data, keys) for p, data in receipts.items()}
        whole = check_receipt(_data(receipt), keys) if receipt is not None else None
        known = TrustList.configured(trust, None)
        for path in (path for path in files if path not in receipts):
            found[path] = _matched(contents[path], whole) if whole is not None else read(contents[path], known)
    except CertificateError as error:
        raise CliError(str(error)) from None
    for path in files:
        report = found[path]
        bare = isinstance(report, Report) and report.state == "none"
        unsigned = _metadata(contents[path]) if bare else {}
        if as_json:
            typer.echo(
                json.dumps({"file": str(path), **asdict(report), **({"metadata": unsigned} if unsigned else {})})
            )
            continue
        said = _receipt_rows(report) if isinstance(report, ReceiptReport) else _rows(report)
        if bare:
            said |= {"meaning": NO_MANIFEST, "metadata": UNSIGNED if unsigned else "none"}
            said |= {f"metadata.{name}": value for name, value in unsigned.items()}
        console = Console()
        console.print(_shown(path), soft_wrap=True, highlight=False, emoji=False)
        console.print(_table(said))
    if any(report.state in {"none", "invalid"} for report in found.values()):
        raise typer.Exit(1)


def _matched(picture: bytes, receipt: ReceiptReport) -> ReceiptReport:
    """The report of a receipt, about the candidate whose file this is."""
    index = receipt.candidate_of(picture)
    if index is None:
        problem = "no returned candidate of the receipt has this file"
        return replace(receipt, state="invalid", problems=(*receipt.problems, problem))
    own = [c for c in receipt.claims["candidates"] if c["index"] == index]
    return replace(receipt, claims={**receipt.claims, "candidates": own})


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


def _receipt_rows(report: ReceiptReport) -> dict[str, Any]:
    """What a receipt says, each candidate in a row, best first."""
    claims = report.claims
    candidates = claims.get("candidates")
    listed = [c for c in candidates if isinstance(c, dict)] if isinstance(candidates, list) else []
    ranked = sorted(listed, key=lambda c: (c.get("rank") is None, str(c.get("rank")).zfill(9)))
    names = ("rank", "score", "seed", "file_sha256")
    return {
        "state": report.state,
        "signer": report.signer,
        "problems": ", ".join(report.problems),
        **{name: claims.get(name) for name in ("generation", "model", "scorer", "seed", "prompt_sha256")},
        **{f"candidate {c.get('index')}": ", ".join(f"{name} {c.get(name)}" for name in names) for c in ranked},
    }


def _rows(report: Report) -> dict[str, Any]:
    return {
        "state": report.state,
        "signer": report.signer,
        "generator": report.generator,
        "made by a model": "yes" if report.generated else None,
        "actions": ", ".join(report.actions),
        "made from": ", ".join(report.ingredients),
        "problems": ", ".join(report.problems),
        **{f"parameters.{name}": value for name, value in (report.parameters or {}).items()},
    }


def _metadata(data: bytes) -> dict[str, str]:
    """What the unsigned texts of an image file say of its making."""
    try:
        texts = decoding.texts(data, MAX_PIXELS, most=MAX_CHARS)
    except FrontrunnerError:
        return {}
    comment = texts.get("UserComment", "")
    try:
        said = json.loads(texts.get(encoding.PNG_METADATA_KEYWORD) or comment)
    except (ValueError, RecursionError):
        found = parse_infotext((texts.get(encoding.PNG_INFOTEXT_KEYWORD) or comment)[: decoding.MAX_TEXT_CHARS])
        told = encoding.PNG_INFOTEXT_KEYWORD in texts or "Seed" in found  # a comment may be about anything
        said = {name.lower(): value for name, value in found.items()} if told else {}
    known = said if isinstance(said, dict) else {}
    return {name: str(known[name]) for name in MADE_BY if known.get(name) not in (None, "")}


def _table(said: Mapping[str, Any]) -> Table:
    table = Table(show_header=False)
    for name, value in said.items():
        if value is not None and value != "":
            table.add_row(_shown(name), _shown(value))
    return table


def _shown(value: object) -> str:
    """A text of a file, which may be anybody's, without control characters and markup."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)))
