"""Settings come from the environment, and what cannot work is refused with its name and a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import ENV_PREFIX, Settings, format_errors
from models.load_options import EndpointLimits
from models.loras import Lora


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{ENV_PREFIX}{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_are_local_and_in_one_folder(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.database == f"sqlite:///{tmp_path}/data/frontrunner.db"
    assert settings.blobs == f"file://{tmp_path}/data/blobs"
    assert not (tmp_path / "data").exists()


def test_urls_win_over_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTRUNNER_DATABASE_URL", " sqlite:///elsewhere.db ")
    monkeypatch.setenv("FRONTRUNNER_BLOB_URL", "s3://bucket/prefix")
    settings = Settings()
    assert settings.database == "sqlite:///elsewhere.db"
    assert settings.blobs == "s3://bucket/prefix"
    assert "elsewhere" not in repr(settings)
    assert "bucket" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "70000", "less than or equal to 65535"),
        ("PORT", "web", "valid integer"),
        ("HOST", "", "at least 1 character"),
        ("DATA_DIR", "/", "a dedicated folder"),
        ("DATA_DIR", "~", "a dedicated folder"),
        ("DATA_DIR", "/etc/hostname", "is a file"),
        ("DATABASE_URL", "records.db", "must be a URL"),
        ("BLOB_URL", "images", "must be a URL"),
        ("DEVICE", "gpu", "should match pattern"),
        ("MAX_CANDIDATES", "0", "greater than or equal to 1"),
        ("DRAIN_S", "-1", "greater than or equal to 0"),
        ("DRAIN_S", "nan", "less than or equal to 3600"),
        ("LEASE_S", "inf", "less than or equal to 3600"),
        ("RETENTION_S", "nan", "greater than or equal to 60"),
        ("PRUNING", "maybe", "'auto' or 'off'"),
        ("PRUNING_QUALITY", "1", "less than 1"),
        ("LOG_FORMAT", "xml", "'console' or 'json'"),
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(f"FRONTRUNNER_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (line,) = format_errors(refused.value)
    assert line.startswith(f"FRONTRUNNER_{name}: ")
    assert says in line


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_candidates": 100, "max_queued_candidates": 50}, "MAX_QUEUED_CANDIDATES"),
        ({"default_candidates": 65}, "DEFAULT_CANDIDATES"),
    ],
)
def test_contradictions(given: dict[str, int], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**given)  # type: ignore[arg-type]
    (line,) = format_errors(refused.value)
    assert line.startswith("settings: ")
    assert says in line


def test_lora_adapters_of_the_start_need_their_folder(tmp_path: Path) -> None:
    made = Settings(data_dir=tmp_path / "data", lora_dir=tmp_path, loras="film:0.8, ink")
    assert made.lora_folder is not None
    assert made.lora_folder.default == (Lora("film", 0.8), Lora("ink", 1.0))
    assert Settings(data_dir=tmp_path / "data").lora_folder is None
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"loras": "film"}, "LORAS requires LORA_DIR"),
        ({"lora_dir": tmp_path / "absent"}, "is no folder"),
        ({"lora_dir": tmp_path, "loras": "film:9"}, "weight of -4..4"),
        ({"lora_dir": tmp_path, "loras": "film:x"}, "weight of -4..4"),
        ({"lora_dir": tmp_path, "loras": ":1"}, "is no adapter"),
        ({"lora_dir": tmp_path, "loras": "film,film"}, "once"),
    ]
    for changes, why in wrong:
        with pytest.raises(ValidationError, match=why):
            Settings(**{"data_dir": tmp_path / "data", **changes})


def test_the_key_of_a_remote_generator_is_in_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTRUNNER_REMOTE_API_KEY", " sk-secret\n")
    settings = Settings(remote_size="512x768", remote_price=0.04, remote_money_per_day=5, remote_parameters='{"a": 1}')
    limits = settings.load_options.remote
    assert (limits.api_key, limits.size, limits.parameters, limits.money_per_day) == (
        "sk-secret",
        (512, 768),
        {"a": 1},
        5,
    )
    assert "sk-secret" not in repr(settings) + repr(limits) + settings.model_dump_json()
    monkeypatch.setenv("PAINTER_KEY", "other")
    assert Settings(remote_key_variable="PAINTER_KEY").load_options.remote.api_key == "other"
    wrongs: list[dict[str, Any]] = [
        {"remote_size": "512"}, {"remote_size": "510x512"}, {"remote_parameters": "[1]"}, {"remote_parameters": "{"},
        {"remote_money_per_day": 5}, {"remote_price": -1}, {"remote_price": "inf"}, {"remote_concurrency": 0},
        {"remote_key_variable": "sk-secret"},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            Settings(**wrong)
    monkeypatch.setenv("PAINTER_KEY", "two words")
    with pytest.raises(ValidationError, match="PAINTER_KEY must be"):
        Settings(remote_key_variable="PAINTER_KEY")


def test_the_key_and_limits_of_endpoints_reach_the_loader_and_are_not_shown() -> None:
    limits: dict[str, Any] = {"vlm_concurrency": 2, "vlm_timeout_s": 9.5, "vlm_calls_per_day": 0}
    settings = Settings(vlm_api_key=" sk-secret\n", **limits)
    assert settings.load_options.endpoint == EndpointLimits("sk-secret", 2, 9.5, 0)
    assert "sk-secret" not in repr(settings)
    wrongs: list[dict[str, Any]] = [
        {"vlm_concurrency": 0},
        {"vlm_timeout_s": 0},
        {"vlm_calls_per_day": -1},
        {"vlm_api_key": "two words"},
        {"rewriter_key": "two words"},
    ]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            Settings(**wrong)
