"""Reading manifests: who is trusted, and what files of others may say."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from app.cli import app as cli
from app.imaging import encode
from app.imaging.provenance import Origin, SigningPair, TrustList, certificates, read, sign

PEM = serialization.Encoding.PEM


@pytest.fixture(scope="module")
def pairs() -> tuple[SigningPair, SigningPair]:
    """Two signers of one authority."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = certificates._certificate("root", root_key, "root", root_key)
    made = []
    for _ in range(2):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certificates._certificate("signer", key, "root", root_key)
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        made.append(SigningPair.parse(leaf.public_bytes(PEM) + root.public_bytes(PEM), private))
    return made[0], made[1]


def plain() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def signed(pair: SigningPair, parameters: Mapping[str, Any]) -> bytes:
    return sign(plain(), "image/png", Origin("a.png", ("Frontrunner", "1"), parameters), pair)


def test_of_the_own_authority_only_the_own_certificate_is_trusted(pairs: tuple[SigningPair, SigningPair]) -> None:
    own, other = pairs
    trust = TrustList.configured(None, own)
    assert read(signed(own, {}), trust).state == "trusted"
    assert read(signed(other, {}), trust).state == "valid"
    assert read(signed(other, {}), TrustList(own.chain)).state == "trusted"  # an operator may trust the authority
    assert read(signed(own, {})).state == "valid"


def test_the_table_shows_what_a_file_says_and_hides_nothing(
    pairs: tuple[SigningPair, SigningPair], tmp_path: Path
) -> None:
    said = {
        "state": "trusted",
        "signer": "[red]\x1b[2J",
        "parent": {"generation": "gen_1", "index": 2},
        "loras": ["ink"],
    }
    (tmp_path / "a.png").write_bytes(signed(pairs[0], said))
    shown = CliRunner().invoke(cli, ["verify", str(tmp_path / "a.png")], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    rows = {
        cells[0]: cells[1]
        for cells in (line.strip("│┃ ").split("│") for line in shown.output.splitlines())
        if len(cells) == 2
    }
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert rows["state"] == "valid"
    assert rows["signer"] == certificates.DEVELOPMENT
    assert rows["parameters.state"] == "trusted"
    assert rows["parameters.signer"] == "[red]\N{REPLACEMENT CHARACTER}[2J"
    assert "gen_1" in rows["parameters.parent"]
    assert "\x1b" not in shown.output


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_a_file_without_a_manifest_shows_its_unsigned_metadata(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("long-" * 30) / f"[red]a.{kind}"
    path.parent.mkdir()
    said = {"prompt": "a [red] apple\x1b", "seed": 2**63, "model": "fake"}
    path.write_bytes(encode(np.zeros((8, 8, 3), np.uint8), kind, said))
    shown = CliRunner().invoke(cli, ["verify", str(path)], env={"COLUMNS": "100"})
    assert shown.exit_code == 1
    assert shown.output.splitlines()[0] == str(path)
    for told in ("no C2PA manifest", "anyone can change", "a [red] apple\N{REPLACEMENT CHARACTER}", str(2**63), "fake"):
        assert told in shown.output
    body = json.loads(CliRunner().invoke(cli, ["verify", "--json", str(path)]).output)
    assert (body["state"], body["metadata"]) == ("none", {**said, "seed": str(2**63)})


def test_settings_of_other_tools_are_shown_too(tmp_path: Path) -> None:
    notes = PngInfo()
    notes.add_text("parameters", "a pear\nSteps: 4, Sampler: Euler, Seed: 9, Model: other")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=notes)
    body = json.loads(CliRunner().invoke(cli, ["verify", "--json", str(tmp_path / "a.png")]).output)
    assert body["metadata"] == {"prompt": "a pear", "seed": "9", "model": "other"}


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_long_unsigned_metadata_is_read_whole(tmp_path: Path, kind: str) -> None:
    said = {"prompt": "\u044f" * 4000, "seed": "7", "model": "fake"}
    (tmp_path / "a").write_bytes(encode(np.zeros((8, 8, 3), np.uint8), kind, said))
    body = json.loads(CliRunner().invoke(cli, ["verify", "--json", str(tmp_path / "a")]).output)
    assert body["metadata"] == said


@pytest.mark.parametrize(
    ("comment", "metadata"),
    [
        (
            "a pear\nSteps: 4, Sampler: Euler, Seed: 9, Model: other",
            {"prompt": "a pear", "seed": "9", "model": "other"},
        ),
        ("the harbour at night", None),
    ],
)
def test_a_comment_is_metadata_if_it_has_settings(tmp_path: Path, comment: str, metadata: object) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + comment.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpeg", exif=exif)
    body = json.loads(CliRunner().invoke(cli, ["verify", "--json", str(tmp_path / "a.jpeg")]).output)
    assert body.get("metadata") == metadata


@pytest.mark.parametrize("data", [b"nothing", encode(np.zeros((8, 8, 3), np.uint8), "png")], ids=["none", "plain"])
def test_a_file_without_any_metadata_says_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    shown = CliRunner().invoke(cli, ["verify", str(tmp_path / "a.png")], env={"COLUMNS": "100"})
    assert shown.exit_code == 1
    assert "no C2PA manifest" in shown.output
    assert "anyone" not in shown.output
