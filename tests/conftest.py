"""What all tests share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of parallel tests would wait for one another

import pytest
import torch

MNIST = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)


@pytest.fixture
def mnist_dir() -> Path:
    """Where real MNIST lies; the test is skipped where it doesn't."""
    if not (MNIST / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"real MNIST is not at {MNIST}/MNIST/raw")
    return MNIST
