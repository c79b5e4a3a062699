"""Image towers that start from weights in a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
from models.training.trainers import backbones, scorer  # noqa: E402

pytestmark = pytest.mark.torch
TOWER = "efficientnet_lite0"


def package(root: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, object]) -> None:
    """A package with these weights, first on the path."""
    name, file = backbones.PACKAGED[TOWER]
    path = root / name / file
    path.parent.mkdir(parents=True)
    (root / name / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(weights, path)
    monkeypatch.syspath_prepend(root)


def test_a_tower_takes_the_tensors_of_its_package_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package has names of its own; its classifier is left out."""
    torch.manual_seed(4)
    given = timm.create_model(TOWER, pretrained=False)
    package(tmp_path, monkeypatch, {f"other.{i}": each for i, each in enumerate(given.state_dict().values())})
    tower = timm.create_model(TOWER, pretrained=False, num_classes=0)
    tower.load_state_dict(backbones.pretrained(TOWER))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert tower.eval()(x).equal(given.eval().forward_head(given.forward_features(x), pre_logits=True))


def test_weights_of_another_shape_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = timm.create_model(TOWER, pretrained=False).state_dict()
    package(tmp_path, monkeypatch, {name: each.flatten() for name, each in given.items()})
    with pytest.raises(ValueError, match=r"holds other shapes than efficientnet_lite0: conv_stem\.weight"):
        backbones.pretrained(TOWER)


def test_too_few_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(timm.create_model(TOWER, pretrained=False).state_dict().items())[:3]
    package(tmp_path, monkeypatch, dict(first))
    with pytest.raises(ValueError, match="holds other shapes than efficientnet_lite0"):
        backbones.pretrained(TOWER)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.PACKAGED, TOWER, ("no_such_weights", "weights.pth"))
    with pytest.raises(ModuleNotFoundError, match="install no_such_weights"):
        backbones.pretrained(TOWER)


def test_statistics_of_a_tower_are_those_of_the_pictures() -> None:
    """Whatever they were before, and with the weights as they are."""
    pictures = np.random.default_rng(2).integers(0, 256, (40, 8, 8, 3), np.uint8)
    tower = torch.nn.BatchNorm2d(3)
    tower.running_mean.fill_(9.0)
    backbones.settle(tower, pictures)
    channels = torch.from_numpy(pictures / 127.5 - 1).float().flatten(0, 2)
    assert tower.running_mean.allclose(channels.mean(0), atol=1e-3)
    assert tower.running_var.allclose(channels.var(0), atol=1e-2)
    assert tower.training
    assert tower.weight.eq(1).all()


def test_pictures_are_enlarged_to_what_the_tower_sees() -> None:
    assert scorer.config(TOWER)["model_cfg"]["vision_cfg"]["image_size"] == 96
    assert scorer.config("regnety_002")["model_cfg"]["vision_cfg"]["image_size"] == 64
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert scorer.enlarged(flat, 96).allclose(torch.full((1, 3, 96, 96), 0.3), atol=1e-6)
    assert scorer.enlarged(flat, 64) is flat
