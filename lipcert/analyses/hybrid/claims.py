"""What is proved of a hybrid classifier: A answers where its gap is at least a threshold τ, else B is asked.

Let t be the label, y the logits of A, m_s = y_t − y_s at the image x, and M_ts how far y_t − y_s moves at most while
the image moves by 1. A's certificate proves a radius r with r·M_ts ≤ m_s for every s ≠ t. The gap of A is the largest
logit minus the second largest. The hybrid's answer is t within eps of x if one of these holds:

1. *A answers, and rightly, everywhere.* At x' with ‖x' − x‖ ≤ eps, y_t − y_s ≥ m_s − M_ts·eps. Where that is at least τ
   for all s ≠ t, A's answer at x' is t, and its gap is at least τ. Let m = min_s m_s ≥ τ. As M_ts ≤ m_s/r, for
   eps ≤ r·(1 − τ/m) we have m_s − M_ts·eps ≥ m_s·τ/m ≥ τ. The threshold costs the radius its share τ/m of the margin.
2. *Whoever answers does so rightly.* B is proved to answer t within eps, and A never answers wrongly: that takes some s
   with y_s − y_t ≥ τ at x'. As y_t − y_s ≥ m_s − M_ts·eps there, it can't be where M_ts·eps < m_s + τ for all s. With L
   the largest M_ij, this holds for eps < (m + τ)/L, whether A is right at x or not, and for eps < r + τ/L if it is, as
   M_ts·eps < M_ts·r + τ ≤ m_s + τ.

Nothing is assumed of whether x itself is delegated, which both allow for. Margins are computed, not exact: m is lowered
by what rounding can be, and the radii by a hair. As 1 − τ/m may be far smaller than the rounding of τ/m, that is raised
by a hair too. A radius is infinite where no difference of logits moves at all: then A's gap is everywhere what it is
at x.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HAIR, MORE = 1 - 1e-12, 1 + 1e-12  # of a radius, and of what it loses: more than the roundings of the formulas


class Images(NamedTuple):
    """What is known of N images, each an array (N,).

    gap           A's largest logit minus its second largest
    margin        A's logit of the label minus the largest other one, less what rounding can be
    radius        proved of A by a Lipschitz bound of differences of logits; 0 where it is wrong
    right         whether A is right
    other_radius  proved of B, in the same norm; 0 where nothing is
    other_right   whether B is right
    """

    gap: np.ndarray
    margin: np.ndarray
    radius: np.ndarray
    right: np.ndarray
    other_radius: np.ndarray
    other_right: np.ndarray


def hybrid_right(images: Images, threshold: float) -> np.ndarray:
    """Whether the hybrid is right, (N,)."""
    return np.where(images.gap < threshold, images.other_right, images.right)


def hybrid_radius(images: Images, threshold: float, steepest: float) -> np.ndarray:
    """The radii (N,) that are proved of the hybrid, 0 where it is wrong or nothing is.

    threshold  at least 0, of A's gap; infinite: B is asked always
    steepest   how far a difference of two of A's logits moves at most while the image moves by 1
    """
    margin, radius = images.margin, np.where(images.right, images.radius, 0.0)
    slope = np.float64(steepest)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        left = np.maximum(1 - threshold / margin * MORE, 0.0) * HAIR if threshold > 0 else np.float64(1.0)
        moved = np.where(np.isinf(radius), radius, radius * left)
        alone = np.where((margin > 0) & (margin >= threshold), moved, 0.0)
        room = np.maximum((margin + threshold) / slope, np.where(radius > 0, radius + threshold / slope, 0.0))
    if not steepest > 0:
        room = np.where((margin + threshold > 0) | (radius > 0), np.inf, 0.0)
    if threshold == np.inf:  # A never answers, whatever its margins are
        room = np.full_like(margin, np.inf)
    either = np.minimum(images.other_radius, np.maximum(room, 0.0) * HAIR)
    return np.where(hybrid_right(images, threshold), np.maximum(alone, either), 0.0)
