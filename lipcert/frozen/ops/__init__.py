"""The closed table of operations: nothing else can be frozen, evaluated, bounded or read from a file."""

from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.affine import Affine
from lipcert.frozen.ops.convolution import Convolution, TransposedConvolution
from lipcert.frozen.ops.distances import Distance, DistanceConvolution, NearestNeighbour
from lipcert.frozen.ops.joins import Add, Concatenate, Maximum, Merge, MinMax, Split
from lipcert.frozen.ops.linear import AlongAxis, Linear
from lipcert.frozen.ops.moves import Permute, Rearrange, Reshape, Slice
from lipcert.frozen.ops.pointwise import LeakyReLU, Pointwise, TwoSided
from lipcert.frozen.ops.pooling import AdaptiveMaxPool, MaxPool, NormPool, Sort, SubtractMean
from lipcert.frozen.ops.recurrent import Recurrent

OPERATIONS: dict[str, type[Operation]] = {
    operation.kind: operation
    for operation in (
        Linear,
        Convolution,
        TransposedConvolution,
        AlongAxis,
        Affine,
        Pointwise,
        LeakyReLU,
        TwoSided,
        MaxPool,
        AdaptiveMaxPool,
        NormPool,
        SubtractMean,
        Sort,
        MinMax,
        Maximum,
        Add,
        Concatenate,
        Split,
        Merge,
        Reshape,
        Permute,
        Slice,
        Rearrange,
        Distance,
        DistanceConvolution,
        NearestNeighbour,
        Recurrent,
    )
}
