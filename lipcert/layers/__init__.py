"""Layers by name; each lives in the file of its idea and brings the rule of its own bound."""

from lipcert.layers.branches import BranchLinear as BranchLinear
from lipcert.layers.branches import FlattenBranches as FlattenBranches
from lipcert.layers.branches import JoinBranches as JoinBranches
from lipcert.layers.branches import PlainBranchLinear as PlainBranchLinear
from lipcert.layers.branches import Replicate as Replicate
from lipcert.layers.folding import fold as fold
from lipcert.layers.initialisation import pass_on as pass_on
from lipcert.layers.nonexpansive import NonexpansiveConv2d as NonexpansiveConv2d
from lipcert.layers.nonexpansive import NonexpansiveLinear as NonexpansiveLinear
from lipcert.layers.nonexpansive import UnitRowsLinear as UnitRowsLinear
from lipcert.layers.nonexpansive import gram_bound as gram_bound
from lipcert.layers.nonexpansive import gram_penalty as gram_penalty
from lipcert.layers.normalisation import Standardise as Standardise
from lipcert.layers.normalisation import SubtractMean as SubtractMean
from lipcert.layers.pooling import GlobalNormPool2d as GlobalNormPool2d
from lipcert.layers.pooling import NormPool2d as NormPool2d
from lipcert.layers.pooling import pooling as pooling
from lipcert.layers.recurrent import NonexpansiveRNN as NonexpansiveRNN
from lipcert.layers.recurrent import NonexpansiveRNNCell as NonexpansiveRNNCell
from lipcert.layers.residual import ConvexResidual as ConvexResidual
from lipcert.layers.residual import Residual as Residual
from lipcert.layers.two_sided import TwoSidedReLU as TwoSidedReLU
from lipcert.layers.two_sided import TwoSidedSigmoid as TwoSidedSigmoid
from lipcert.layers.two_sided import nonlinearity as nonlinearity
