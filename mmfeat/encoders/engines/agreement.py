"""Whether an engine's embeddings of some samples agree with those of torch in float32, as the precision class requires.

Other rows are not compared: of 24,000 photographs in bfloat16, one had a cosine of 0.9795.
"""

from __future__ import annotations

import numpy as np

RELATIVE = 1e-4  # float32: largest difference, relative to the largest value of the reference
MEDIAN_COSINE, LEAST_COSINE = 0.999, 0.98  # other arithmetic: cosine of each row with the reference


def disagreement(found: np.ndarray, reference: np.ndarray, arithmetic: str, *, generated: bool = False) -> str:
    """Why embeddings `(n, D)` must not be used; empty if they agree with the reference.

    Parameters
    ----------
    reference : np.ndarray
        `(n, D)` float32 of eager torch, for the same samples.
    generated : bool
        Whether the samples are made up. On images unlike photographs, the median of other arithmetic means nothing.
    """
    if found.shape != reference.shape:
        return f"its embeddings have the shape {found.shape}, those of torch {reference.shape}"
    if not np.isfinite(found).all():
        return "its embeddings are not finite"
    if arithmetic == "float32":
        difference = float(np.abs(found - reference).max() / max(np.abs(reference).max(), 1e-30))
        return f"it differs from torch by {difference:.1e}, more than {RELATIVE:g}" if difference > RELATIVE else ""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    cosines = (found * reference).sum(1) / np.maximum(lengths, 1e-30)
    if (not generated and np.median(cosines) < MEDIAN_COSINE) or cosines.min() < LEAST_COSINE:
        return (
            f"its cosine with torch is {np.median(cosines):.5f} in the median and {cosines.min():.5f} at least, "
            f"below {MEDIAN_COSINE} or {LEAST_COSINE}"
        )
    return ""
