"""Files with a signed origin: what their manifests say, that a change is noticed, and who may be trusted."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app as cli
from app.cli.client import CliError
from app.cli.serve import run_server
from app.errors import StoreUnavailable
from app.imaging.provenance import CertificateError, SigningPair, certificates, development_pair
from app.service.candidates import sealing
from tests.api.kit import House, is_problem, running

pytestmark = pytest.mark.slow

SECRET = "a red apple of the secret project"
FORMATS = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("certificates")
    told = CliRunner().invoke(cli, ["keys", "development-certificate", str(folder)])
    assert told.exit_code == 0, told.output
    return {"c2pa_certificate": folder / "c2pa.pem", "c2pa_key": folder / "c2pa.key"}


@pytest.fixture(scope="module")
def signed(signing: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("signed"), **signing) as house:
        yield house


def manifest(data: bytes, media_type: str) -> dict[str, Any]:
    """The active manifest by the library's own reader."""
    with c2pa.Reader(media_type, io.BytesIO(data)) as reader:
        store = json.loads(reader.json())
        assert reader.get_validation_state() == "Valid", store.get("validation_status")
    found: dict[str, Any] = store["manifests"][store["active_manifest"]]
    return found


def verified(house: House, data: bytes) -> dict[str, Any]:
    answer = house.client.post("/v1/verify", files={"image": ("a.png", data)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def picture(house: House, made: dict[str, Any], name: str, **query: str) -> httpx.Response:
    answer = house.client.get(f"/v1/generations/{made['id']}/images/{name}", params=query)
    assert answer.status_code == 200, answer.text
    return answer


def test_every_format_says_that_a_model_made_it(signed: House) -> None:
    made = signed.made(prompt=SECRET, negative_prompt="", n=2, seed=2**64 - 3, provenance="c2pa")
    assert made["provenance"] == "c2pa"
    for index in range(3):  # the last one was not returned: its file is made on request
        for form, media_type in FORMATS.items():
            data = picture(signed, made, f"{index}.{form}").content
            said = manifest(data, media_type)
            actions, parameters = (a["data"] for a in said["assertions"][:2])
            assert actions["actions"][0]["action"] == "c2pa.created"
            assert actions["actions"][0]["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
            assert parameters["generation"] == made["id"]
            assert parameters["seed"] == str(made["candidates"][index]["seed"])
            assert parameters["prompt_sha256"] == hashlib.sha256(SECRET.encode()).hexdigest()
            assert parameters["model_revision"]
            assert parameters["scorer_revision"]
            assert b"secret project" not in data
            report = verified(signed, data)
            assert (report["state"], report["generated"], report["problems"]) == ("trusted", True, [])
            assert report["parameters"] == parameters


def test_pixels_are_those_of_an_unsigned_file(signed: House) -> None:
    asked = {"prompt": SECRET, "seed": 7}
    plain, sealed = (signed.made(**asked, provenance=origin) for origin in ("none", "c2pa"))
    one, other = (np.asarray(Image.open(io.BytesIO(picture(signed, m, "0.png").content))) for m in (plain, sealed))
    assert np.array_equal(one, other)
    assert verified(signed, picture(signed, plain, "0.png").content)["state"] == "none"


@pytest.mark.parametrize(("form", "start"), [("png", b"IDAT"), ("webp", b"VP8L"), ("jpeg", b"\xff\xda")])
def test_one_changed_byte_is_noticed(signed: House, form: str, start: bytes) -> None:
    data = picture(signed, signed.made(provenance="c2pa"), f"0.{form}").content
    pixels = data.index(start) + len(start)
    for place in (*range(pixels + 20, pixels + 200, 10), data.index(b"prompt_sha256") + 20):
        changed = bytearray(data)
        changed[place] ^= 1
        report = verified(signed, bytes(changed))
        assert report["state"] == "invalid", place
        assert report["problems"]


def test_a_resized_file_names_the_whole_one_as_its_parent(signed: House) -> None:
    made = signed.made(provenance="c2pa")
    small = picture(signed, made, "0.png", size="32x32").content
    assert Image.open(io.BytesIO(small)).size[0] <= 32
    report = verified(signed, small)
    assert report["state"] == "trusted"
    assert report["actions"] == ["c2pa.opened", "c2pa.resized"]
    assert report["ingredients"] == [f"{made['id']}-0.png"]


def test_a_refinement_names_the_image_it_started_from(signed: House) -> None:
    made = signed.made(provenance="c2pa", output_format="webp")
    asked = signed.post(f"/v1/generations/{made['id']}/refine", json={"index": made["data"][0]["index"]}).json()
    assert asked["provenance"] == "c2pa", "inherited"
    report = verified(signed, picture(signed, asked, f"{asked['data'][0]['index']}.png").content)
    assert report["state"] == "trusted"
    assert report["ingredients"] == [f"{made['id']}-{made['data'][0]['index']}.webp"]
    assert report["parameters"]["parent"]["generation"] == made["id"]
    signed.client.delete(f"/v1/generations/{made['id']}")
    alone = signed.post(f"/v1/generations/{asked['id']}/refine", json={"index": 0}).json()
    assert verified(signed, picture(signed, alone, f"{alone['data'][0]['index']}.png").content)["state"] == "trusted"


def test_a_store_that_fails_while_a_refinement_is_signed_loses_no_result(
    signed: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, faults, parent_file = signed.made(provenance="c2pa"), iter((True, True, False)), sealing.parent_file

    async def failing(*given: Any) -> Any:
        if next(faults):
            raise StoreUnavailable("the bucket does not respond")
        return await parent_file(*given)

    monkeypatch.setattr(sealing, "parent_file", failing)
    monkeypatch.setattr("app.service.generations.recorder.STORE_RETRY_DELAYS_S", (0.01, 0.01))
    answer = signed.post(f"/v1/generations/{made['id']}/refine", json={"index": 0})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "succeeded"
    assert next(faults, None) is None, "tried three times"


def test_openai_clients_get_signed_files(signing: dict[str, Any], tmp_path: Path) -> None:
    with running(tmp_path, **signing, provenance="c2pa") as house:
        answer = house.client.post("/v1/images/generations", json={"prompt": SECRET, "response_format": "b64_json"})
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        assert verified(house, data)["state"] == "trusted"
        streamed = house.post(json={"prompt": SECRET, "n_candidates": 1}, headers={"accept": "image/webp"})
        assert verified(house, streamed.content)["state"] == "trusted"


def test_it_is_refused_where_nothing_can_sign(house: House) -> None:
    told = is_problem(house.post(json={"prompt": SECRET, "provenance": "c2pa"}), 422, "invalid_request", "#/provenance")
    assert "FRONTRUNNER_C2PA_CERTIFICATE" in told["detail"]
    assert "`metadata`" in told["detail"]


def test_a_certificate_that_expires_ends_the_generation_with_a_reason(
    signing: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, **signing) as house:
        later = datetime.now(UTC) + timedelta(days=2 * certificates.DEVELOPMENT_DAYS)
        made = house.made(provenance="c2pa")
        monkeypatch.setattr(sealing.FileSealer, "check", lambda *_: None)  # it was good when the request came
        monkeypatch.setattr(sealing, "datetime", type("Later", (), {"now": lambda _: later}))
        told = is_problem(house.post(json={"prompt": SECRET, "provenance": "c2pa"}), 500, "signing_failed")
        assert "expired" in told["detail"]
        assert picture(house, made, f"{made['data'][0]['index']}.png").status_code == 200, "stored files stay"


def test_what_is_no_signed_picture(signed: House) -> None:
    for data in (b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff" + b"\0" * 100):
        assert verified(signed, data)["state"] in {"none", "invalid"}
    is_problem(signed.client.post("/v1/verify", json={"image": "https://example.com/a.png"}), 400, "bad_image")
    is_problem(signed.client.post("/v1/verify", json={}), 422, "invalid_request")
    is_problem(
        signed.client.post("/v1/verify", content=b"x", headers={"content-type": "text/plain"}), 415, "unsupported_media"
    )
    two = [("image", ("a.png", b"x")), ("image", ("b.png", b"y"))]
    is_problem(signed.client.post("/v1/verify", files=two), 422, "invalid_request")


def test_a_manifest_of_ten_megabytes(signed: House) -> None:
    """A PNG whose manifest chunk is large and means nothing."""
    made = picture(signed, signed.made(), "0.png").content
    body = b"\0" * 10_000_000
    chunk = len(body).to_bytes(4, "big") + b"caBX" + body + zlib.crc32(b"caBX" + body).to_bytes(4, "big")
    assert verified(signed, made[:33] + chunk + made[33:])["state"] in {"none", "invalid"}


def test_another_signer_is_valid_until_it_is_trusted(signed: House, tmp_path: Path) -> None:
    chain, key, root = development_pair()
    (tmp_path / "a.pem").write_bytes(chain)
    (tmp_path / "a.key").write_bytes(key)
    (tmp_path / "root.pem").write_bytes(root)
    with running(tmp_path, c2pa_certificate=tmp_path / "a.pem", c2pa_key=tmp_path / "a.key") as other:
        data = picture(other, other.made(provenance="c2pa"), "0.png").content
    assert verified(signed, data)["state"] == "valid"
    with running(tmp_path / "b", c2pa_trust=tmp_path / "root.pem") as trusting:
        assert verified(trusting, data)["state"] == "trusted"
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "plain.png").write_bytes(b"nothing")
    run = CliRunner()
    shown = run.invoke(cli, ["verify", str(tmp_path / "a.png"), "--trust", str(tmp_path / "root.pem"), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["state"] == "trusted"
    table = run.invoke(cli, ["verify", str(tmp_path / "a.png")])
    assert table.exit_code == 0
    assert "valid" in table.output
    assert certificates.DEVELOPMENT in table.output
    assert run.invoke(cli, ["verify", str(tmp_path / "plain.png")]).exit_code == 1


def test_pairs_that_cannot_sign(signing: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, key = (signing[name].read_bytes() for name in ("c2pa_certificate", "c2pa_key"))
    other_chain, other_key, root = development_pair()
    with pytest.raises(CertificateError, match="does not belong"):
        SigningPair.parse(chain, other_key)
    with pytest.raises(CertificateError, match="no PEM chain"):
        SigningPair.parse(b"x", key)
    with pytest.raises(CertificateError, match="no unencrypted PEM private key"):
        SigningPair.parse(chain, b"x")
    with pytest.raises(CertificateError, match="does not belong"):
        SigningPair.parse(root, other_key)
    with pytest.raises(CertificateError, match="cannot be read"):
        SigningPair.load(tmp_path / "none.pem", signing["c2pa_key"])
    assert SigningPair.parse(other_chain, other_key).algorithm == "es256"
    monkeypatch.setattr(certificates, "DEVELOPMENT_DAYS", 0)
    expired_chain, expired_key, _ = development_pair()
    with pytest.raises(CertificateError, match="expired on"):
        SigningPair.parse(expired_chain, expired_key)


def test_a_service_does_not_start_with_half_a_pair(signing: dict[str, Any], tmp_path: Path) -> None:
    for given in ({"c2pa_key": signing["c2pa_key"]}, {"provenance": "c2pa"}):
        with pytest.raises(CliError, match="FRONTRUNNER_C2PA_CERTIFICATE"):
            run_server({"data_dir": tmp_path, "port": 0, **given})


def test_a_development_certificate_replaces_nothing(signing: dict[str, Any]) -> None:
    folder = signing["c2pa_key"].parent
    before = signing["c2pa_key"].read_bytes()
    told = CliRunner().invoke(cli, ["keys", "development-certificate", str(folder)])
    assert told.exit_code != 0
    assert signing["c2pa_key"].read_bytes() == before
    assert signing["c2pa_key"].stat().st_mode & 0o077 == 0
