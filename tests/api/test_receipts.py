"""Signed receipts: what they claim, and that one changed byte is noticed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from typer.testing import CliRunner

from app.cli import app as cli
from app.imaging.provenance import CertificateError, SigningPair, certificates, development_pair
from app.imaging.provenance.receipts import check_receipt, order_problems, sign_receipt
from tests.api.keys_kit import add_key
from tests.api.kit import House, is_problem, running, until

pytestmark = pytest.mark.slow

FAKE: dict[str, Any] = {"safety_classifier": "fake", "safety_threshold": 0.615}
ASKED: dict[str, Any] = {"prompt": "a red apple", "n_candidates": 6, "steps": 4, "n": 3, "seed": 2**64 - 3}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pair")
    for name, data in zip(("c2pa.pem", "c2pa.key", "root.pem"), development_pair(), strict=True):
        (folder / name).write_bytes(data)
    return {"c2pa_certificate": folder / "c2pa.pem", "c2pa_key": folder / "c2pa.key"}


@pytest.fixture(scope="module")
def signing(pair: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(
        tmp_path_factory.mktemp("receipts"), **pair, safety_classifier="fake", safety_threshold=0.615
    ) as house:
        yield house


def receipt(house: House, made: dict[str, Any]) -> bytes:
    answer = house.client.get(f"/v1/generations/{made['id']}/receipt")
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_receipt_says_what_the_ranking_was_made_of(signing: House) -> None:
    made = signing.made(**ASKED, negative_prompt="blurry", safety="flag", pruning=[{"at": 2, "keep": 4}])
    data = receipt(signing, made)
    key = signing.client.get("/v1/receipts/key").json()
    report = check_receipt(data, key["public_key"].encode())
    assert (report.state, report.problems, report.signer) == ("trusted", (), None)
    assert check_receipt(data, key["certificate"].encode()).signer == certificates.DEVELOPMENT
    assert check_receipt(data).state == "valid"
    claims = report.claims
    assert claims["prompt_sha256"] == hashlib.sha256(b"a red apple").hexdigest()
    assert (claims["generation"], claims["model"]["id"], claims["model"]["revision"]) == (made["id"], "fake", "1")
    assert claims["ranking"]["negatives"][0]["text_sha256"] == hashlib.sha256(b"blurry").hexdigest()
    assert b"red apple" not in data
    for told, candidate in zip(claims["candidates"], made["candidates"], strict=True):
        assert (told["seed"], told["score"], told["rank"]) == (
            str(candidate["seed"]), candidate["score"], candidate["rank"],
        )  # fmt: skip
        assert told["flagged"] == (candidate["safety"]["flagged"] if candidate["safety"] else None)
        assert len(told["latents_sha256"]) == 64
    for image in made["data"]:
        file = signing.client.get(image["url"]).content
        assert report.candidate_of(file) == image["index"]
        assert report.candidate_of(file + b"x") is None


def test_one_changed_byte_is_noticed(signing: House) -> None:
    data = receipt(signing, signing.made(**ASKED))
    document = json.loads(data)
    start, end = data.index(b'"claims"') + 10, data.index(b'"algorithm"')
    for place in range(start, end, 37):
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            report = check_receipt(bytes(changed))
        except CertificateError:  # no longer JSON
            continue
        same = json.loads(changed) == document
        assert (report.state == "valid") is same, changed[place - 20 : place + 20]
    wrong = {
        "signature": document["signature"][::-1],
        "certificate": development_pair()[0].decode(),
        "algorithm": "es384",
    }
    for name, value in wrong.items():
        assert check_receipt(json.dumps({**document, name: value}).encode()).state == "invalid", name


def test_anybody_can_check_it_with_standard_libraries(signing: House) -> None:
    """As the documentation says: canonical JSON, and the first certificate's key."""
    document = json.loads(receipt(signing, signing.made(**ASKED)))
    key = x509.load_pem_x509_certificates(document["certificate"].encode())[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signature = base64.b64decode(document["signature"])
    key.verify(signature, rfc8785.dumps(document["claims"]), ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("kind", ["p384", "ed25519", "rsa"])
def test_every_kind_of_key_signs(kind: str) -> None:
    made: Any = {
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    issuer = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    chain = certificates._certificate("signer", made, "root", issuer).public_bytes(pem)
    secret = made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signed = sign_receipt(claims(), SigningPair.parse(chain, secret))
    assert check_receipt(json.dumps(signed).encode(), chain).state == "trusted"
    assert check_receipt(json.dumps({**signed, "claims": {**claims(), "n": 2}}).encode()).state == "invalid"


def test_documents_of_anybody_get_a_report() -> None:
    signed = sign_receipt(claims(), SigningPair.parse(*development_pair()[:2]))
    nested: Any = []
    for _ in range(600):
        nested = [nested]
    deep = check_receipt(json.dumps({**signed, "claims": {**claims(), "deep": nested}}).encode())
    assert deep.state == "invalid"
    der = x509.load_pem_x509_certificates(signed["certificate"].encode())[0].public_bytes(serialization.Encoding.DER)
    unknown = der.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0209"))
    assert unknown != der
    wrapped = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(unknown).decode()}-----END CERTIFICATE-----\n"
    assert check_receipt(json.dumps({**signed, "certificate": wrapped}).encode()).state == "invalid"
    short = sign_receipt({**claims(), "candidates": [{"index": 4}]}, SigningPair.parse(*development_pair()[:2]))
    report = check_receipt(json.dumps(short).encode())
    assert (report.state, report.candidate_of(b"")) == ("invalid", None)
    nameless = check_receipt(json.dumps(signed).encode())
    assert (nameless.state, nameless.candidate_of(b"")) == ("valid", None)


def claims(*scores: float, **changed: Any) -> dict[str, Any]:
    given = scores or (0.3, 0.2, 0.1)
    order = sorted(range(len(given)), key=lambda i: (-given[i], i))
    usual: dict[str, Any] = {"pruned_at_step": None, "flags": [], "flagged": None, "failed": False}
    candidates = [
        {"index": i, "score": score, "rank": order.index(i) + 1 if order.index(i) == 0 else None, **usual}
        for i, score in enumerate(given)
    ]
    ranking = {"diversity": 0, "scorers": [], "veto": [], "min_score": None}
    return {"n": 1, "safety": "off", "ranking": ranking, "candidates": candidates, **changed}


def test_an_order_that_the_scores_do_not_give_is_named() -> None:
    assert order_problems(claims()) == []
    better = claims()
    better["candidates"][2]["score"] = 0.9
    assert order_problems(better) == ["candidate 2 has no rank, although it is better"]
    better["candidates"][2]["pruned_at_step"] = 3
    assert order_problems(better) == [], "it did not compete"
    better["candidates"][2] |= {"pruned_at_step": None, "flagged": True}
    assert order_problems(better) != []
    assert order_problems({**better, "safety": "veto"}) == []
    swapped = claims(n=2)
    swapped["candidates"][0]["rank"], swapped["candidates"][1]["rank"] = 2, 1
    assert "the ranks do not follow the scores" in order_problems(swapped)
    flagged = claims(safety="veto")
    flagged["candidates"][0]["flagged"] = True
    assert any("although it is excluded" in problem for problem in order_problems(flagged))
    for broken in ({}, {"candidates": 3}, claims(n="x"), claims(ranking=None), claims(candidates=[1])):
        assert order_problems(broken) == ["the claims are not those of a receipt"]


def test_rerankings_and_vetoes_have_receipts_that_hold(signing: House) -> None:
    made = signing.made(**{**ASKED, "n_candidates": 8, "seed": 7}, safety="veto", ranking={"min_score": -1})
    assert check_receipt(receipt(signing, made)).state == "valid"
    path = f"/v1/generations/{made['id']}/rerank"
    for ranking in ({"prompt": "a blue boat"}, {"diversity": 0.5}, {"negatives": [{"text": "red"}]}):
        stored = signing.post(path, json={"ranking": ranking, "n": 2, "store": True}).json()
        report = check_receipt(receipt(signing, stored))
        assert (report.state, report.problems) == ("valid", ()), ranking
        assert report.claims["parent"] == {"kind": "rerank", "generation": made["id"], "index": None}


def test_receipts_hold_after_the_operator_requires_a_veto(pair: dict[str, Any], tmp_path: Path) -> None:
    """A receipt speaks of the mode that ranked, not of today's."""
    asked = {**ASKED, "n_candidates": 8, "n": 8, "seed": 7, "pruning": "off"}
    with running(tmp_path, **pair, **FAKE) as before:
        made = before.made(**asked, safety="flag")
        plain = before.made(**asked)
    assert any(c["rank"] and c["safety"]["flagged"] for c in made["candidates"])
    with running(tmp_path, **pair, **FAKE, safety="veto") as after:
        old = check_receipt(receipt(after, made))
        assert (old.state, old.problems, old.claims["safety"]) == ("valid", (), "flag")
        again = after.post(f"/v1/generations/{plain['id']}/rerank", json={"n": 8, "store": True}).json()
        assert again["safety"] == "veto"
        assert "fewer_after_safety" in {w["code"] for w in again["warnings"]}
        new = check_receipt(receipt(after, again))
        assert (new.state, new.problems, new.claims["safety"]) == ("valid", (), "veto")


def test_deleted_and_unfinished_generations_have_none(signing: House) -> None:
    made = signing.made(**ASKED)
    assert signing.client.delete(f"/v1/generations/{made['id']}").status_code == 204
    is_problem(signing.client.get(f"/v1/generations/{made['id']}/receipt"), 404, "not_found")
    refused = signing.queued(prompt="red", n_candidates=2, steps=4, pruning="off", seed=3, safety="veto")
    until(lambda: signing.client.get(f"/v1/generations/{refused['id']}").json()["status"] == "failed")
    is_problem(signing.client.get(f"/v1/generations/{refused['id']}/receipt"), 409, "not_ready")


def test_keys_and_certificates(pair: dict[str, Any], tmp_path: Path) -> None:
    with running(tmp_path / "none") as house:
        made = house.made(**ASKED)
        for path in (f"/v1/generations/{made['id']}/receipt", "/v1/receipts/key"):
            assert "FRONTRUNNER_C2PA_CERTIFICATE" in is_problem(house.client.get(path), 404, "not_found")["detail"]
    with (
        pytest.raises(CertificateError, match="FRONTRUNNER_C2PA_KEY"),
        running(tmp_path / "half", c2pa_certificate=pair["c2pa_certificate"]),
    ):
        pass
    expires = SigningPair.load(pair["c2pa_certificate"], pair["c2pa_key"]).expires
    with time_machine.travel(expires + timedelta(days=1)), pytest.raises(CertificateError, match="expired"):
        SigningPair.load(pair["c2pa_certificate"], pair["c2pa_key"])
    with running(tmp_path / "locked", **pair) as house:
        headers = add_key(tmp_path / "locked" / "data")[1]
        made = house.post(json=ASKED, headers=headers).json()
        path = f"/v1/generations/{made['id']}/receipt"
        is_problem(house.client.get(path), 401, "unauthorized")
        assert house.client.get(path, headers=headers).status_code == 200
        assert house.client.get("/v1/receipts/key").status_code == 200


def test_the_command_line_checks_receipts_and_pictures(signing: House, pair: dict[str, Any], tmp_path: Path) -> None:
    made, run = signing.made(**ASKED), CliRunner()
    (tmp_path / "receipt.json").write_bytes(receipt(signing, made))
    (tmp_path / "best.png").write_bytes(signing.client.get(made["data"][0]["url"]).content)
    (tmp_path / "other.png").write_bytes(signing.client.get(made["data"][0]["url"] + "?size=32x32").content)
    trust = ["--trust", str(pair["c2pa_certificate"])]
    shown = run.invoke(cli, ["verify", str(tmp_path / "receipt.json"), *trust, "--json"])
    assert (shown.exit_code, json.loads(shown.output)["state"]) == (0, "trusted")
    table = run.invoke(cli, ["verify", str(tmp_path / "receipt.json")])
    assert (table.exit_code, made["id"] in table.output) == (0, True)
    named = ["--receipt", str(tmp_path / "receipt.json"), *trust, "--json"]
    best = run.invoke(cli, ["verify", str(tmp_path / "best.png"), *named])
    assert [c["rank"] for c in json.loads(best.output)["claims"]["candidates"]] == [1]
    other = run.invoke(cli, ["verify", str(tmp_path / "other.png"), *named])
    assert (other.exit_code, json.loads(other.output)["state"]) == (1, "invalid")
    (tmp_path / "wrong.json").write_text("{}")
    assert "no receipt" in str(run.invoke(cli, ["verify", str(tmp_path / "wrong.json")]).exception)
