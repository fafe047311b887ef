"""From a module to a list of operations. torch.export reads the module; nothing that it says is trusted.

`export`     runs torch.export and names what it can't read
`constants`  records how the constants are computed from parameters and buffers
`lowering`   goes through the exported graph; the tables of what it knows are in `layers`, `arithmetic` and `moves`
`refusals`   says why what is not in them has no place in a network with a bound
`program`    is the result: operations whose constants are still functions of the parameters
"""

from lipcert.frozen.capture.program import Program as Program
from lipcert.frozen.capture.program import capture as capture
from lipcert.frozen.capture.refusals import Refused as Refused
