"""Sound upper bounds: operator norms, and the calculus that joins them over a network; and the estimates that train."""

from lipcert.bounds.calculus import Walk as Walk
from lipcert.bounds.calculus import image_signal as image_signal
from lipcert.bounds.calculus import note_costs as note_costs
from lipcert.bounds.comparison import statistical_norm as statistical_norm
from lipcert.bounds.estimate import Estimate as Estimate
from lipcert.bounds.intervals import propagate as propagate
from lipcert.bounds.intervals import worst_margins as worst_margins
from lipcert.bounds.network import lipschitz_bound as lipschitz_bound
from lipcert.bounds.operator_norm import convolution_norm as convolution_norm
from lipcert.bounds.operator_norm import matrix_norm as matrix_norm
from lipcert.bounds.operators import Convolution as Convolution
from lipcert.bounds.operators import Matrices as Matrices
from lipcert.bounds.operators import Operator as Operator
