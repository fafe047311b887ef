"""From a module to a list of operations. torch.export reads the module, but nothing that it says is trusted.

`export`     calls torch.export and explains its errors
`constants`  records how the constants are computed from parameters and buffers
`lowering`   goes through the exported graph; what each operation of torch becomes is in `linear`, `pooling`, `layers`,
             `activations`, `arithmetic`, `moves` and `joins`
`refusals`   says why all other operations cannot be part of a network that has a bound
`program`    is the result: operations whose constants are still functions of the parameters
"""

from lipcert.frozen.capture.program import Program as Program
from lipcert.frozen.capture.program import capture as capture
from lipcert.frozen.capture.refusals import Refused as Refused
