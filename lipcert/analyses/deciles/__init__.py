"""`lipcert certify analysis=deciles`: accuracy and robustness by the gap of the two largest logits (L2NNN, Fig. 2)."""

from lipcert.analyses.deciles.analysis import analyse as analyse
from lipcert.analyses.deciles.analysis import show as show
