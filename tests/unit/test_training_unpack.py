"""A pack goes back into training and comes out again as it was."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
from safetensors.torch import load_file  # noqa: E402

from models.training import export, runs, unpack  # noqa: E402
from models.training.evaluation import judge  # noqa: E402
from models.training.trainers import autoencoder, generator  # noqa: E402
from models.training.trainers import scorer as train_scorer  # noqa: E402

pytestmark = pytest.mark.torch

PACK = Path(__file__).parents[2] / "models" / "packs" / "pictogram"


def test_the_embedded_pack_is_exported_again_as_it_is(tmp_path: Path) -> None:
    states = unpack.states(PACK)
    paths = {kind: tmp_path / f"{kind}.pt" for kind in states}
    for kind, state in states.items():
        runs.write({"modules": state}, paths[kind])
    export.export_generator(tmp_path / "generator", paths["autoencoder"], paths["generator"])
    export.export_scorer(tmp_path / "scorer", [paths["scorer"]], "regnety_002")
    if "second" in states:
        export.export_scorer(tmp_path / "second", [paths["second"]], "cs3darknet_s")
    weights = sorted(PACK.rglob("*.safetensors"))
    assert len(weights) == len(states)
    for path in weights:
        before, after = load_file(path), load_file(tmp_path / path.relative_to(PACK))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_trainers_take_every_tensor_of_it() -> None:
    states = unpack.states(PACK, Path(__file__).parents[1] / "bench" / "judge")
    vae = autoencoder.build()
    unet = generator.build()
    scorer = train_scorer.trained_parts(train_scorer.build(train_scorer.config("regnety_002")))
    networks = {
        "autoencoder": torch.nn.ModuleDict({"encoder": vae.encoder, "decoder": vae.decoder}),
        "generator": torch.nn.ModuleDict({"unet": unet}),
        "scorer": scorer,
        "judge": torch.nn.ModuleDict({"judge": judge.Judge()}),
    }
    for kind, network in networks.items():
        network.load_state_dict(states[kind], strict=True)


def test_an_anchored_encoder_stays_what_the_run_began_with(tmp_path: Path) -> None:
    vae = autoencoder.build()
    network = torch.nn.ModuleDict({"encoder": vae.encoder, "decoder": vae.decoder})
    runs.write({"modules": network.state_dict()}, tmp_path / "init.pt")
    first = autoencoder.anchored(network, tmp_path / "init.pt")
    picture = torch.rand(1, 3, 64, 64)
    before = network["encoder"](picture).detach()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    assert torch.equal(first(picture), before)
    assert not torch.equal(network["encoder"](picture), before)
    assert not any(p.requires_grad for p in first.parameters())


def test_a_calibration_is_put_into_the_index_of_a_pack(tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_text('{"id": "small", "calibration": 1}')
    (tmp_path / "calibration.json").write_text('{"format": 2, "measured": {"prompts": 8}}')
    export.adopt(tmp_path, tmp_path / "calibration.json")
    index = json.loads((tmp_path / "pack.json").read_text())
    assert index == {"id": "small", "calibration": {"format": 2, "measured": {"prompts": 8}}}
    (tmp_path / "calibration.json").write_text('{"format": 4, "match": {"slope": 2}}')
    export.adopt(tmp_path, tmp_path / "calibration.json")
    assert json.loads((tmp_path / "pack.json").read_text())["match"] == {"slope": 2}
    (tmp_path / "calibration.json").write_text('{"format": 4}')
    export.adopt(tmp_path, tmp_path / "calibration.json")
    assert "match" not in json.loads((tmp_path / "pack.json").read_text()), "it was measured with other weights"
