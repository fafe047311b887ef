"""lipcert: train a classifier, prove how far its answer cannot be moved, attack the proof."""

from importlib.metadata import version

__version__ = version("lipcert")
