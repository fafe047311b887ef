"""`lipcert certify analysis=tightness`: how much of an image's robustness its certificate proves (LMT's Figs. 3 to 5).

Image by image: (A) the certified radius; (B) and (C) what it would be by the steepest gradient near all images and near
this one, which are estimates and claim nothing; (D) the distance of an attack. A ≤ B and A < D hold for every image, or
the certificate is broken.
"""

from lipcert.analyses.tightness.analysis import Settings as Settings
from lipcert.analyses.tightness.analysis import analyse as analyse
from lipcert.analyses.tightness.analysis import show as show
