"""The frozen network: a plain list of known operations. Nothing else is evaluated, bounded, attacked or stored.

`freeze` makes one from a module, which `capture/` reads; `ops/` holds the operations with all of their rules.
`lipschitz` and `pairs` apply the rules of Lipschitz constants, `boxes` those of intervals, `rounding` those of rounding
errors; `file` stores a network, and `training` applies the rules to parameters that are still trained.
"""

from lipcert.frozen.capture import Refused as Refused
from lipcert.frozen.freeze import freeze as freeze
from lipcert.frozen.network import Network as Network
