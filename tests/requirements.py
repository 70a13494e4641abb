"""What tests need: XLA's flags, and skips for what a machine may lack.

SEGJAX_REQUIRE turns skips into failures.
"""

import importlib
import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

# For a jit that computes long enough: compiled as users have it (see xla_flags).
OPTIMIZED = {"xla_backend_optimization_level": 1}
PEERS = "torch torchvision segmentation_models_pytorch timm transformers".split()


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of the tests' processes, with so many virtual devices.

    XLA's own passes stay as they are. LLVM's would take a third of the tests' time, and
    hardly any of these programs runs long enough to win it back; and what is rounded
    otherwise without them has to pass, too.
    """
    count = f"--xla_force_host_platform_device_count={devices}"
    return f"{count} --xla_backend_optimization_level=0"


def _missing(kind: str, text: str):
    if kind in os.environ.get("SEGJAX_REQUIRE", "").split(","):
        pytest.fail(f"SEGJAX_REQUIRE={kind}, but {text}", pytrace=False)
    pytest.skip(text)


def require_parity(name: str) -> ModuleType:
    """Import a package of the [parity] extra, or skip the test."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return _missing("parity", f"{name} is not installed ({error}): [parity] extra")


def require_export() -> None:
    """Skip the test where a package of the [export] extra is missing."""
    for name in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            _missing("export", f"{name} is not installed: [export] extra")


def require_browser() -> tuple[ModuleType, str]:
    """Playwright of the [browser] extra and the path of a Chromium, or skip."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError as error:
        return _missing("browser", f"no playwright ({error}): [browser] extra")
    if path is None:
        return _missing("browser", "no chromium: apt-get install chromium")
    return playwright, path


def require_data(name: str) -> Path:
    """The folder of a real dataset under $SEGJAX_DATA, or skip the test."""
    root = os.environ.get("SEGJAX_DATA", "")
    folder = Path(root) / name
    if not root or not folder.is_dir():
        return _missing("data", f"{name} is not under SEGJAX_DATA={root!r}")
    return folder
