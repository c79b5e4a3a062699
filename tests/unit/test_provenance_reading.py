"""Reading manifests: who is trusted, and what files of others may say."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image
from typer.testing import CliRunner

from app.cli import app as cli
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
