"""Data sets, one file each, named like its YAML: `conf/dataset/mnist.yaml` builds `lipcert.datasets.mnist.mnist`."""

from lipcert.datasets.batching import batches as batches
