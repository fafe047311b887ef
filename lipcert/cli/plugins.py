"""Hydra's plugins, looked for among what is installed and nowhere else."""

from __future__ import annotations

import os
import sys


def scan_plugins() -> None:
    """Lets Hydra look for plugins, once: among what is installed, and not in the current directory."""
    from hydra.core.plugins import Plugins

    here, path = os.getcwd(), list(sys.path)
    sys.path[:] = [place for place in path if os.path.abspath(place or ".") != here]
    try:
        Plugins.instance()
    finally:
        sys.path[:] = path
