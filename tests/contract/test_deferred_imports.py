"""What start-up does not import: the compiler and scipy, until something uses them, and then the real ones."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.torch

OPTIONAL = ("torchao", "spandrel", "bitsandbytes")
"""Packages of accelerations and upscalers, which the embedded model does without."""

KEPT_OUT = ("torch._dynamo", "torch._inductor", "scipy.stats", "scipy.optimize", "scipy.integrate", "scipy.spatial")


def run(script: str) -> str:
    """What a script prints in a new process."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=110
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_embedded_model_is_loaded_timed_and_run_without_the_compiler_and_scipy() -> None:
    found = run(f"""
        import sys
        from app.engine.config import EngineConfig
        from app.engine.core import EngineCore
        from models import registry
        models = registry.load_models("pictogram", "pictogram", "cpu")
        core = EngineCore(models, EngineConfig())
        core.measure()
        models.scorer.embed_patches(models.generator.decode(models.generator.load(models.generator.dump(
            [models.generator.noise(0, 64, 64, models.generator.schedule(models.generator.info.sampler, 2, 64, 64))]
        ))).numpy()[0])
        print([name for name in {(*KEPT_OUT, *OPTIONAL)} if name in sys.modules])
        assert not any(type(module).__name__ == "_StandIn" for module in sys.modules.values())
    """)
    assert found.strip() == "[]"


@pytest.mark.soak
def test_what_was_kept_out_is_the_real_thing_as_soon_as_it_is_used() -> None:
    run("""
        import sys
        from models import registry
        registry.load_models("pictogram", "fake", "cpu")
        import torch, torchvision, diffusers
        from diffusers.utils.torch_utils import is_compiled_module
        from torchvision.ops.roi_align import is_compile_supported
        beta = diffusers.EulerDiscreteScheduler(use_beta_sigmas=True, beta_schedule="scaled_linear")
        beta.set_timesteps(4)
        assert "scipy.stats" in sys.modules
        assert "torch._dynamo" not in sys.modules
        assert is_compile_supported("cpu") in (True, False)
        assert type(sys.modules["torch._dynamo"]).__name__ == "module"
        assert torch._dynamo.eval_frame.OptimizedModule
        layer = torch.nn.Linear(2, 2)
        assert not is_compiled_module(layer)
        assert is_compiled_module(torch.compile(layer, backend="eager"))
        assert torch.compile(layer, backend="eager")(torch.ones(1, 2)).shape == (1, 2)
    """)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("from torch._dynamo import reset; kind = reset", id="a name that no stand-in has"),
        pytest.param(
            "import torch._dynamo.eval_frame as kind", id="a module that has no stand-in", marks=pytest.mark.soak
        ),
        pytest.param(
            "from torch._dynamo.utils import counters as kind",
            id="another name of one that has",
            marks=pytest.mark.soak,
        ),
        pytest.param("from scipy.stats import norm as kind", id="a name of scipy", marks=pytest.mark.soak),
        pytest.param(
            "from scipy.integrate._quadrature import _builtincoeffs as kind",
            id="a module of scipy inside one that has",
            marks=pytest.mark.soak,
        ),
        pytest.param("import scipy; kind = scipy.stats.norm", id="scipy's own way to a module", marks=pytest.mark.soak),
    ],
)
def test_what_a_stand_in_does_not_have_loads_the_real_module_at_once(asked: str) -> None:
    run(f"""
        import sys
        from models.runtime.deferred_imports import deferred_imports
        with deferred_imports():
            {asked}
            asked = [sys.modules.get(name) for name in ("torch._dynamo", "scipy.stats", "scipy.integrate")]
            real = [module for module in asked if type(module).__name__ == "module"]
            assert real and all(module.__spec__ for module in real)
        import torch._dynamo.eval_frame, scipy.stats
        assert sys.modules["torch._dynamo.eval_frame"] is torch._dynamo.eval_frame
        assert torch._dynamo.eval_frame.__spec__.origin.endswith("eval_frame.py")
        assert kind is not None
    """)


@pytest.mark.soak
def test_modules_that_are_loaded_already_stay() -> None:
    run("""
        import scipy.stats, torch._dynamo
        from models.runtime.deferred_imports import deferred_imports
        with deferred_imports(), deferred_imports():
            from torch._dynamo import disable
            assert disable is torch._dynamo.disable
            assert disable.__module__.startswith("torch._dynamo")
            assert scipy.stats.norm
    """)


@pytest.mark.soak
def test_what_diffusers_found_installed_stays_visible() -> None:
    """It looks once, at its first import, and imports what it found later."""
    run("""
        import diffusers.utils.import_utils
        from models.runtime.deferred_imports import deferred_imports
        with deferred_imports():
            from diffusers import StableDiffusionPipeline
        assert StableDiffusionPipeline.__module__.startswith("diffusers.pipelines")
    """)
