"""What all tests share."""

import copy
import os
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of parallel tests would wait for one another

import pytest
import torch

MNIST = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _hydra_composes_once():
    """Hydra reads all files of a command twice, first to learn its mode; most of a refused command's time goes there.

    Here it reads each file of lipcert.conf once a process. Commands in processes of their own run as users run them.
    """
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource as Source
    from hydra._internal.hydra import Hydra

    load, mode = Source.load_config, Hydra.get_mode
    kept = cache(lambda path, name: load(Source("test", f"pkg://{path}"), name))

    def load_config(source, name):
        return copy.deepcopy(kept(source.path, name))

    def get_mode(self, config_name, overrides):
        return mode(self, config_name, overrides) if any("hydra" in word for word in overrides) else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "load_config", load_config)
        patch.setattr(Hydra, "get_mode", get_mode)
        yield


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)


@pytest.fixture
def mnist_dir() -> Path:
    """Where real MNIST lies; the test is skipped where it doesn't."""
    if not (MNIST / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"real MNIST is not at {MNIST}/MNIST/raw")
    return MNIST
