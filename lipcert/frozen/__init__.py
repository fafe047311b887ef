"""The frozen network: a plain list of known operations, which alone is evaluated, bounded, boxed, attacked and stored.

`freeze` makes one of a module; `capture/` reads the module, `ops/` holds the operations with all their rules.
`lipschitz` and `pairs` walk the rules of movement, `boxes` those of intervals, `rounding` those of rounding errors.
"""

from lipcert.frozen.capture import Refused as Refused
from lipcert.frozen.freeze import freeze as freeze
from lipcert.frozen.network import Network as Network
