"""Operator norms of the linear layers of a network, in l1, l2 and l_inf.

Every norm returned here is a proved upper bound of the true norm, computed in float64, with the rounding errors of its
own computation added. There are two exceptions: `power_step` estimates a norm from below, for training, and
`comparison.statistical_norm` holds with a stated probability.

`operators` and `convolution_operators` describe the linear maps, `matrix` and `convolution` measure them, and
`comparison` has bounds from other work. These rest on `windows`, `fourier`, `power` and `rounding`.
"""

from lipcert.norms.convolution import convolution_norm as convolution_norm
from lipcert.norms.convolution_operators import Convolution as Convolution
from lipcert.norms.convolution_operators import TransposedConvolution as TransposedConvolution
from lipcert.norms.matrix import gram_iteration_norm as gram_iteration_norm
from lipcert.norms.matrix import matrix_norm as matrix_norm
from lipcert.norms.operators import Matrices as Matrices
from lipcert.norms.operators import Operator as Operator
from lipcert.norms.operators import growth as growth
from lipcert.norms.power import normalised as normalised
