"""Data sets, one file each, named like its yaml: `conf/dataset/mnist.yaml` is `lipcert.datasets.mnist.mnist(...)`."""

from lipcert.datasets.batching import batches as batches
