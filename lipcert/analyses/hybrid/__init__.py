"""`lipcert certify run=A analysis=hybrid other=B`: A answers where its gap is wide, B elsewhere (L2NNN)."""

from lipcert.analyses.hybrid.analysis import Settings as Settings
from lipcert.analyses.hybrid.analysis import analyse as analyse
from lipcert.analyses.hybrid.analysis import show as show
