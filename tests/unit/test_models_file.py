"""The file with several models: what it accepts, and how it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, format_errors

README = Path(__file__).parents[2] / "app" / "README.md"


def _settings(tmp_path: Path, text: str, **more: object) -> Settings:
    file = tmp_path / "models.toml"
    file.write_text(text)
    return Settings(models=file, data_dir=tmp_path / "data", **more)  # type: ignore[arg-type]


def _refusal(tmp_path: Path, text: str, **more: object) -> str:
    with pytest.raises(ValidationError) as caught:
        _settings(tmp_path, text, **more)
    (line,) = format_errors(caught.value)
    assert str(tmp_path) not in line
    return line


def test_the_documented_file_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    served = _settings(tmp_path, example, dtype="float32").served
    assert served is not None
    assert served.default == "pictogram"
    found = {model.id: (model.load, model.settings.generator, model.settings.scorer) for model in served.models}
    assert found == {
        "pictogram": ("resident", "pictogram", "pictogram"),
        "turbo": ("on-demand", "stabilityai/sd-turbo", "ViT-B-32/laion2b_s34b_b79k"),
        "house-style": ("resident", "/models/house-style-2", "pictogram"),
        "house-style@v1": ("on-demand", "/models/house-style-1", "pictogram"),
    }
    turbo = served.models[1].settings
    assert (turbo.device, turbo.dtype, turbo.load_options.scorers) == ("cuda:0", "float32", ("pickscore", "hps"))


def test_tables_and_arrays_are_values_of_settings(tmp_path: Path) -> None:
    text = '[models.a]\ngenerator = "openai:https://host/v1#model"\ncontrols = {edge = "one", depth = "two"}\n'
    text += "compile = true"
    served = _settings(tmp_path, text).served
    assert served is not None
    assert served.models[0].settings.generator == "openai:https://host/v1#model"
    assert served.models[0].settings.load_options.controls == {"edge": "one", "depth": "two"}
    assert served.models[0].settings.compile


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no model: add a table"),
        ("models = 1", "names no model: add a table"),
        ("[models", "is not valid TOML"),
        ('[models.a]\ngenerator = "x"\n[models.a]\ngenerator = "y"', "names a model or key twice"),
        ('[models.a]\ngenerator = "x"\n[models.A]\ngenerator = "y"', "'a' and 'A' differ in case only"),
        ('[models."a b"]\ngenerator = "x"', "the model name 'a b' is not valid: use up to 100 letters"),
        ('[models."a@b"]\ngenerator = "x"', "the model name 'a@b' is not valid"),
        ('[models."é"]\ngenerator = "x"', "is not valid"),
        ('[models.a]\ngenerator = "x"\ncolour = 1', "[models.a] has the unknown key 'colour': use load, previous, "),
        ('colour = 1\n[models.a]\ngenerator = "x"', "the file has the unknown key 'colour': use default, models"),
        ('[models.a]\nscorer = "x"', "[models.a] lacks the key generator"),
        ("[models]\na = 1", "[models.a] must be a table"),
        ('[models.a]\ngenerator = "x"\ndevice = "tpu"', "[models.a] device: String should match pattern"),
        ('[models.a]\ngenerator = "x"\nload = "later"', "load must be one of resident, on-demand"),
        ('[models.a]\ngenerator = "x"\nscorers = [1]', "scorers must be an array of strings"),
        ('[models.a]\ngenerator = "x"\nlora_dir = "/none"', "LORA_DIR is no folder"),
        ('[models.a]\ngenerator = "x"\nprevious = 1', "previous must be tables such as [models.a.previous.v1]"),
        ('[models.a]\ngenerator = "x"\n[models.a.previous.v1]\nload = "on-demand"', "previous.v1] lacks the key"),
        (f'[models.a]\ngenerator = "x"\n[models.a.previous.{"v" * 65}]', "a label that is not valid: use up to 64"),
        ('default = "b"\n[models.a]\ngenerator = "x"', "default names no model of the file: use one of a"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    assert told in _refusal(tmp_path, text)


def test_other_settings_fit_the_file(tmp_path: Path) -> None:
    text = '[models.a]\ngenerator = "x"'
    assert "exclude each other" in _refusal(tmp_path, text, generator="y")
    assert "mine=b names no model" in _refusal(tmp_path, text, model_aliases="mine=b")
    with pytest.raises(ValidationError, match="cannot be read"):
        Settings(models=tmp_path / "none.toml", data_dir=tmp_path / "data")
    many = "\n".join(f'[models.m{number}]\ngenerator = "x"' for number in range(65))
    assert "name at most 64" in _refusal(tmp_path, many)
