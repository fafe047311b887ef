"""`lipcert certify analysis=stability`: how steep a network is at its test images (TULIP's tables 4 and 6)."""

from lipcert.analyses.stability.analysis import analyse as analyse
from lipcert.analyses.stability.analysis import show as show
