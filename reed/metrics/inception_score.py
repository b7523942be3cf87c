"""The inception score of a set of class predictions."""

from __future__ import annotations

import numpy as np


def inception_score(logits: np.ndarray, split: int = 5000) -> float:
    """Compute the mean over splits of ``exp(mean KL(p(y|x) || p(y)))``, at least 1.

    Source: Salimans et al. (arXiv 1606.03498), section 4.

    Args:
        logits: [N, classes]; their softmax is p(y|x).
        split: Samples per split, taken in order; their mean is p(y). The last split may be shorter,
            as in the ADM suite.
    """
    scores = []
    for start in range(0, len(logits), split):
        part = np.asarray(logits[start : start + split], dtype=np.float64)
        shifted = part - part.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        p = np.exp(log_p)
        log_mean = np.log(p.mean(0).clip(min=np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (log_p - log_mean)).sum(1).mean()))
    return float(np.mean(scores))
