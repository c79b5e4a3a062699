"""The server's own work beside requests."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

from app.cli.serve import DrainingServer, server_config
from app.settings import Settings
from tests.api.kit import running


def test_loaded_libraries_and_models_are_left_out_of_garbage_collection(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        server = DrainingServer(server_config(house.app, Settings(port=0)), drain_s=0)
        gc.unfreeze()  # the libraries, which are frozen in all tests
        asyncio.run(server.on_tick(1))
        frozen = gc.get_freeze_count()
        asyncio.run(server.on_tick(2))
        again = gc.get_freeze_count()
    assert frozen > 10_000
    assert again <= frozen, "what requests leave behind is collected"
