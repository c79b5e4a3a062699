"""Arguments of applications, their names in the manifests, and settings of fronts with a cluster."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import cluster as cli
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.replicas.frames import MAX_BYTES, Frame, read_frame, write_frame
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.model_loading import application_name, make_engine
from app.settings import Settings
from app.workers import applications, head
from app.workers.applications import ClusterProblem
from app.workers.arguments import WorkerArguments, arguments_of
from app.workers.head import LocalCluster
from models.pack import PACKS

MANIFESTS = Path(__file__).parents[2] / "docker" / "kubernetes"


def settings(**given: Any) -> Settings:
    return Settings(**{"generator": "fake", "scorer": "fake", "data_dir": Path("data"), **given})


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text("utf-8")))


def test_a_worker_gets_the_settings_of_its_model_and_no_secret() -> None:
    given = settings(vlm_api_key="sk-secret", cluster="head:6379", dtype="float32")
    arguments = arguments_of(given, called="one", min_workers=0, max_workers=3)
    assert "sk-secret" not in str(arguments)
    found = WorkerArguments(**arguments)
    assert (found.called, found.min_workers, found.max_workers) == ("one", 0, 3)
    made = found.settings
    assert (made.generator, made.scorer, made.dtype, made.cluster) == ("fake", "fake", "float32", "")
    assert "data_dir" not in arguments["model"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"model": {"generatr": "fake"}}, "generatr"),
        ({"model": {"vlm_api_key": "x"}}, "vlm_api_key"),
        ({"model": {"devices": "cpu*2"}}, "devices"),
        ({"min_workers": 3, "max_workers": 2}, "min_workers"),
        ({"max_wrkers": 2}, "max_wrkers"),
        ({"max_workers": 0}, "max_workers"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        WorkerArguments(**given)


@pytest.mark.parametrize("address", ["head", "head:port", "http://head:6379", "head:6379/x", "a b:1"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ValidationError, match=r"(?i)cluster"):
        settings(cluster=address)


def test_devices_and_a_cluster_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        settings(cluster="auto", devices="cpu*2")


def test_a_front_with_a_cluster_loads_nothing_unless_the_generator_is_remote() -> None:
    def load(*_: object) -> Any:
        raise AssertionError("not here")

    config = EngineConfig()
    made = make_engine(settings(cluster="auto"), load, config, lambda _: None, attempts=2)
    assert isinstance(made, ClusterEngine)
    remote = settings(cluster="auto", generator="openai:https://example.com/v1#m")
    assert isinstance(make_engine(remote, load, config, lambda _: None, attempts=2), LocalEngine)
    assert "ray" not in sys.modules


def test_names_of_applications() -> None:
    assert application_name("pictogram") == "frontrunner-pictogram"
    assert application_name("/models/x y") == "frontrunner--models-x-y"
    assert application_name("house@v1") == "frontrunner-house@v1"


def test_the_manifests_name_what_the_code_has() -> None:
    (service,) = documents("workers.yaml")
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    cluster = service["spec"]["rayClusterConfig"]
    (kustomization,) = documents("kustomization.yaml")
    literals = dict(each.split("=", 1) for each in kustomization["configMapGenerator"][0]["literals"])
    front = next(each for each in documents("fronts.yaml") if each["kind"] == "Deployment")
    own = {name: value for name, value in literals.items() if name.startswith("FRONTRUNNER_")}
    known = {f"FRONTRUNNER_{name.upper()}" for name in Settings.model_fields}
    assert own.keys() <= known
    set_here = {each["name"] for each in front["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert {name for name in set_here if name.startswith("FRONTRUNNER_")} <= known
    given = Settings(**{name.removeprefix("FRONTRUNNER_").lower(): value for name, value in own.items()})
    assert [each["name"] for each in serve["applications"]] == [application_name(given.generator)]
    for each in serve["applications"]:
        module, name = each["import_path"].split(":")
        found = importlib.util.find_spec(module)
        assert found is not None
        assert f"def {name}(" in Path(found.origin or "").read_text("utf-8")
        arguments = WorkerArguments(**each["args"])
        assert (arguments.settings.generator, arguments.settings.scorer) == (given.generator, given.scorer)
        assert arguments.max_workers <= cluster["workerGroupSpecs"][0]["maxReplicas"]
    assert given.cluster == f"{service['metadata']['name']}-head-svc:6379"
    secret = cluster["authOptions"]
    tokens = [each["valueFrom"]["secretKeyRef"] for each in _variables(front, "RAY_AUTH_TOKEN")]
    assert secret["mode"] == "token"
    assert tokens == [{"name": secret["secretName"], "key": "auth_token"}] * 2


def _variables(front: dict[str, Any], name: str) -> list[dict[str, Any]]:
    containers = front["spec"]["template"]["spec"]["containers"]
    return [each for container in containers for each in container["env"] if each["name"] == name]


def test_every_manifest_is_in_the_kustomization() -> None:
    (kustomization,) = documents("kustomization.yaml")
    files = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    front = next(each for each in documents("fronts.yaml") if each["kind"] == "Deployment")
    given = dict(each.split("=", 1) for each in kustomization["configMapGenerator"][0]["literals"])
    grace = front["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= int(given["FRONTRUNNER_NOTICE_S"]) + int(given["FRONTRUNNER_DRAIN_S"]) + 15


@pytest.mark.anyio
async def test_frames_arrive_as_they_were_sent_and_others_are_refused() -> None:
    reader = asyncio.StreamReader()

    class Writer:
        def write(self, data: bytes) -> None:
            reader.feed_data(data)

    write_frame(Writer(), Frame("ask", 7, ("r0", "segment", b"abc")))  # type: ignore[arg-type]
    assert await read_frame(reader) == Frame("ask", 7, ("r0", "segment", b"abc"))
    reader.feed_data((MAX_BYTES + 1).to_bytes(8, "big"))
    with pytest.raises(ValueError, match="too long"):
        await read_frame(reader)
    reader.feed_eof()
    assert await read_frame(reader) is None


def test_no_cluster_runs_where_none_was_started(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    assert cluster.running() is None
    (tmp_path / "cluster.json").write_text('{"pid": 1, "address": "x:1"}')
    assert cluster.running() is None
    assert not cluster.stop()


def test_a_cluster_that_ends_while_it_is_stopped_has_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    looks = iter([head.Head(ended.pid, "127.0.0.2:5"), None])
    monkeypatch.setattr(LocalCluster, "running", lambda _: next(looks))
    assert LocalCluster(tmp_path).stop()
    assert next(looks, "all were taken") == "all were taken"


def test_two_starts_at_once_start_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_check_ray", lambda: None)
    masks: list[int] = []

    def make_token(*_: Any, umask: int, **__: Any) -> subprocess.CompletedProcess[str]:
        masks.append(umask)
        return subprocess.CompletedProcess((), 0, "token", "")

    monkeypatch.setattr(subprocess, "run", make_token)
    with (tmp_path / "cluster.json").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ClusterProblem, match="another"):
            LocalCluster(tmp_path).start(0, None, None)
        json.dump({"pid": 7, "address": "127.0.0.2:5"}, file)
        file.flush()
        assert LocalCluster(tmp_path).running() == head.Head(7, "127.0.0.2:5")
    assert masks == [0o077]


class Serve:
    """What `cluster` does to a cluster: `did` lists it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[Any] = []
        monkeypatch.setattr(applications, "connected", self._connected)
        monkeypatch.setattr(applications, "deploy", lambda _, models: self._note(("deploy", sorted(models)), None))
        monkeypatch.setattr(applications, "delete", lambda _: self._note("delete", ["frontrunner-fake"]))
        monkeypatch.setattr(LocalCluster, "running", lambda _: head.Head(7, "127.0.0.2:5"))
        monkeypatch.setattr(LocalCluster, "stop", lambda _: self._note("stop", True))
        monkeypatch.setattr(LocalCluster, "start", lambda *_: self._note("start", head.Head(7, "127.0.0.2:5")))

    def _note(self, what: Any, result: Any) -> Any:
        self.did.append(what)
        return result

    @contextmanager
    def _connected(self, address: str) -> Iterator[Serve]:
        self.did.append(address)
        yield self


def cluster_command(folder: Path, *words: str, **variables: str) -> Any:
    given = {"data_dir": str(folder), "scorer": "fake", **variables}
    return CliRunner().invoke(
        cli.app, list(words), env={f"FRONTRUNNER_{name.upper()}": value for name, value in given.items()}
    )


def test_down_stops_the_cluster_of_this_machine_also_by_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = Serve(monkeypatch)
    for variables in ({}, {"cluster": "127.0.0.2:5"}, {"cluster": "head:6379"}):
        assert cluster_command(tmp_path, "down", **variables).exit_code == 0
    assert serve.did == ["stop", "stop", "head:6379", "delete"]


def test_up_starts_the_models_of_that_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(monkeypatch)
    tables = '[models.a]\ngenerator = "fake"\n[models.b]\ngenerator = "fake"\ncluster = "other:1"\n'
    (tmp_path / "models.toml").write_text(tables)
    for address in ("head:6379", "other:1"):
        up = cluster_command(
            tmp_path, "up", "--gpus", "0", "--address", address, models=str(tmp_path / "models.toml"), cluster="head:1"
        )
        assert up.exit_code == 0, up.output
    assert serve.did == ["head:6379", ("deploy", ["a"]), "other:1", ("deploy", ["a", "b"])]
    (tmp_path / "models.toml").write_text('[models.b]\ngenerator = "fake"\ncluster = "other:1"\n')
    none = cluster_command(tmp_path, "up", "--address", "head:6379", models=str(tmp_path / "models.toml"))
    assert none.exit_code == 1
    assert "no model runs on the cluster at head:6379" in none.output


def test_up_starts_a_cluster_and_then_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(monkeypatch)
    for generator in ("fake", "pictogram"):
        up = cluster_command(tmp_path, "up", "--gpus", "0", generator=generator)
        assert up.exit_code == 0, up.output
        assert serve.did == ["start", "127.0.0.2:5", ("deploy", [generator])]
        serve.did.clear()


@pytest.mark.parametrize(
    ("words", "given", "named"),
    [
        (["--min", "3", "--max", "2"], {"generator": "fake"}, "--min 3 is above --max 2"),
        ([], {"generator": "nowhere"}, "generator 'nowhere' not found"),
        ([], {"generator": "pictogram-second"}, "'pictogram-second' is a scorer"),
        ([], {"generator": "/no/such/folder"}, "not found"),
        ([], {"generator": "fake", "scorer": "/no/such/clip"}, "model 'clip' not found: the path does not exist"),
        ([], {"generator": "fake", "scorers": "hps:/no/such/file"}, "model 'hps:file' not found"),
        ([], {"generator": "fake", "upscaler": "/no/x4.pth"}, "model 'x4.pth' not found"),
        ([], {"generator": "fake", "preview_decoder": "/no/taesd"}, "model 'taesd' not found"),
        ([], {"generator": "fake", "calibration": "/no/calibration.json"}, "cannot read the calibration file"),
        ([], {"models": "models.toml"}, "no model runs on the cluster at 127.0.0.2:5"),
    ],
)
def test_up_starts_nothing_where_no_model_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], given: dict[str, str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.toml").write_text('[models.b]\ngenerator = "fake"\ncluster = "other:1"\n')
    serve = Serve(monkeypatch)
    up = cluster_command(tmp_path, "up", "--gpus", "0", *words, **given)
    assert (up.exit_code, serve.did) == (1, [])
    assert named in " ".join(up.output.split())
    assert "Traceback" not in up.output


def test_options_have_the_limits_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(monkeypatch)
    for words in (["--max", "20000"], ["--gpus", "65"], ["--cpus", "2000"], ["--idle", "90000"]):
        up = cluster_command(tmp_path, "up", *words, generator="fake")
        assert (up.exit_code, serve.did) == (2, [])


def test_up_starts_nothing_with_a_damaged_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = shutil.copytree(PACKS / "pictogram", tmp_path / "pack")
    (pack / "scorer" / "open_clip_model.safetensors").unlink()
    serve = Serve(monkeypatch)
    up = cluster_command(tmp_path, "up", "--gpus", "0", generator=str(pack))
    assert (up.exit_code, serve.did) == (1, [])
    assert "scorer/open_clip_model.safetensors is missing" in " ".join(up.output.split())


def test_models_on_workers_of_other_machines_are_not_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = Serve(monkeypatch)
    up = cluster_command(tmp_path, "up", "--gpus", "0", "--address", "head:6379", generator="/models/elsewhere")
    assert up.exit_code == 0, up.output
    assert serve.did == ["head:6379", ("deploy", ["/models/elsewhere"])]


def test_nothing_starts_without_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_check_ray", lambda: None)
    failed = subprocess.CompletedProcess((), 1, "", "Traceback\nPermissionError: ~/.ray/auth_token\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("Ray was started"))
    with pytest.raises(ClusterProblem, match="no token for its cluster: PermissionError"):
        LocalCluster(tmp_path).start(0, None, None)
    assert LocalCluster(tmp_path).running() is None
