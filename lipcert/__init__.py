"""lipcert: train a classifier, prove how far its answer cannot be moved, attack the proof.

`load`, `freeze`, `lipschitz_bound`, `certify`, `attack` and `train` are in `lipcert.api`, which is imported when one of
them is first asked for: `import lipcert` loads no torch.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipcert.api import CertifiedClassifier as CertifiedClassifier
    from lipcert.api import attack as attack
    from lipcert.api import certify as certify
    from lipcert.api import freeze as freeze
    from lipcert.api import lipschitz_bound as lipschitz_bound
    from lipcert.api import load as load
    from lipcert.api import train as train

__version__ = version("lipcert")
__all__ = ["CertifiedClassifier", "attack", "certify", "freeze", "lipschitz_bound", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module `lipcert` has no attribute `{name}`")
    from lipcert import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
