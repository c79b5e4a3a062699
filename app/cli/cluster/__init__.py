"""`frontrunner cluster up | status | down`: workers on Ray Serve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from app.cli.client import CliError, reported_errors
from app.settings import ModelSettings, Settings, format_errors
from models.errors import ModelError

app = typer.Typer(
    no_args_is_help=True,
    help="Run models on workers of a Ray cluster. Models and their options are those of the settings: "
    "`FRONTRUNNER_MODELS`, or `FRONTRUNNER_GENERATOR`. Needs `frontrunner[cluster]`.",
)

AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="A Ray cluster that runs. Default: FRONTRUNNER_CLUSTER, or one of this machine.",
    ),
]


@app.command()
def up(
    address: AddressOption = None,
    least: Annotated[
        int, typer.Option("--min", min=0, max=10_000, help="Workers of each model that stay without work.")
    ] = 1,
    most: Annotated[int, typer.Option("--max", min=1, max=10_000, help="Workers of each model under load.")] = 1,
    idle: Annotated[
        float, typer.Option(min=1, max=86_400, metavar="SECONDS", help="Time without work after which a worker stops.")
    ] = 300.0,
    cpus: Annotated[float, typer.Option(min=0, max=1024, help="CPU cores of a worker.")] = 1.0,
    gpus: Annotated[
        float | None, typer.Option(min=0, max=64, help="GPUs of a worker. Default: 1 if a GPU is there.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of a new cluster. Default: a free one.")] = 0,
) -> None:
    """Start workers for each model, and a cluster on this machine unless one runs.

    Options, models and the token are checked before a cluster starts. Run it again to apply other settings. Then start
    fronts with the address that it prints.

    **Examples**

    `frontrunner cluster up --max 4`

    `frontrunner cluster up --address ray-head:6379 --min 0 --max 16`
    """
    from app.model_loading import check_served
    from app.workers.applications import connected, deploy
    from app.workers.arguments import arguments_of
    from app.workers.head import LocalCluster

    with _problems():
        if least > most:
            raise CliError(f"--min {least} is above --max {most}: lower the one or raise the other")
        settings = Settings()
        models = _models(settings)
        known, local = address or settings.cluster, LocalCluster(settings.data_dir)
        place = known or local.address(port)
        here = {name: one for name, one in models.items() if one[0].cluster in {"", settings.cluster, place}}
        if not here:
            where = f"the cluster at {place}" if place else "a new cluster of this machine"
            raise CliError(f"no model runs on {where}: see `cluster` of their tables")
        scale = {"min_workers": least, "max_workers": most, "idle_s": idle, "cpus": cpus, "gpus": gpus or 0.0}
        arguments = {name: arguments_of(one, called=called, **scale) for name, (one, called) in here.items()}
        if not known:
            for one, _ in here.values():
                check_served(one)
            known = local.start(port, None, None).address
        with connected(known) as serve:
            each = gpus if gpus is not None else float(_has_gpu())
            deploy(serve, {name: {**given, "gpus": each} for name, given in arguments.items()})
    typer.echo(f"{len(here)} model(s) on the cluster at {known}. Start a front with:")
    typer.echo(f"  FRONTRUNNER_CLUSTER={known} frontrunner serve")


@app.command()
def status(address: AddressOption = None) -> None:
    """Show the applications of a cluster and their workers.

    The exit code is 1 unless all run.
    """
    from app.workers.applications import applications, connected

    with _problems(), connected(_known(address)) as serve:
        found = applications(serve)
    table = Table(Column("application", no_wrap=True), "state", "workers", "message")
    for each in found:
        workers = ", ".join(f"{number} {state.lower()}" for state, number in each.workers.items() if number)
        table.add_row(escape(each.name), each.state, workers or "none", escape(each.message[:200]))
    Console().print(table)
    if not found or any(each.state != "RUNNING" for each in found):
        raise typer.Exit(1)


@app.command()
def down(address: AddressOption = None) -> None:
    """Stop the workers.

    A cluster that `cluster up` started on this machine stops too.
    """
    from app.workers.applications import connected, delete
    from app.workers.head import LocalCluster

    with _problems():
        settings = Settings()
        local, known = LocalCluster(settings.data_dir), address or settings.cluster
        head = local.running()
        if not known or (head is not None and head.address == known):
            stopped = local.stop()
            typer.echo("the cluster of this machine has stopped" if stopped else "no cluster of this machine runs")
            return
        with connected(known) as serve:
            names = delete(serve)
    typer.echo(f"stopped: {', '.join(names) or 'nothing'}")


def _known(address: str | None) -> str:
    """The address of the cluster that is meant. Raises CliError."""
    from app.workers.head import LocalCluster

    settings = Settings()
    head = LocalCluster(settings.data_dir).running()
    known = address or settings.cluster or (head.address if head is not None else "")
    if not known:
        raise CliError("no cluster of this machine runs: start one with `frontrunner cluster up`, or name --address")
    return known


def _models(settings: Settings) -> dict[str, tuple[ModelSettings, str]]:
    """Settings and other id of each model on workers, by id. Raises CliError."""
    from app.model_loading import application_name
    from models.families.sources import REMOTE

    served = settings.served
    every: dict[str, tuple[ModelSettings, str]] = {settings.generator: (settings, "")}
    if served is not None:
        every = {model.id: (model.settings, model.id) for model in served.models}
    models = {name: one for name, one in every.items() if not one[0].generator.startswith(REMOTE)}
    if not models:
        raise CliError("every model is a remote generator, which needs no worker: name another one")
    if len({application_name(name) for name in models}) < len(models):
        raise CliError("two models have ids that differ in their punctuation only: rename one")
    return models


def _has_gpu() -> bool:
    import ray

    return bool(ray.cluster_resources().get("GPU", 0))


@contextmanager
def _problems() -> Iterator[None]:
    """Report problems of settings and cluster as one line, with exit code 1."""
    from app.workers.applications import ClusterProblem

    with reported_errors():
        try:
            yield
        except ValidationError as error:
            raise CliError("; ".join(format_errors(error))) from None
        except (ClusterProblem, ModelError) as error:
            raise CliError(str(error)) from None
