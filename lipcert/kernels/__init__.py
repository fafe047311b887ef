"""Distances that no matrix product computes: the neurons of l∞-distance nets, and their interval bounds."""

from lipcert.kernels.lp_distance import linf_bounds as linf_bounds
from lipcert.kernels.lp_distance import lp_distance as lp_distance
