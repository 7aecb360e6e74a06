"""Whether a model is as sure of its answers as it is right."""

import numpy as np

from cdjax.data.encoding import NO_TOKEN

BINS = 15


def calibration(logits: np.ndarray, answers: np.ndarray, *, bins: int = BINS) -> dict[str, float]:
    """Returns how the probabilities of a model's answers agree with what is right.

    Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.

    Args:
        logits: float `[N, V]`, at the answer position; of answers of several tokens `[N, A, V]`,
            each behind the right ones before it.
        answers: int `[N]`, the right tokens; `[N, A]`, NO_TOKEN behind shorter answers. All tokens
            are taken together, as if each were an answer.
        bins: of the confidence, of equal width.

    Returns:
        `confidence`, the mean probability of the likeliest token; `ece`, the expected calibration
        error, `Σ_b n_b/N |right_b − confidence_b|` over the bins; and `brier`,
        `mean_i Σ_v (p_iv − y_iv)²` with y the right answer, from 0 to 2: the lower, the better.
    """
    if answers.ndim > 1:
        given = answers != NO_TOKEN
        logits, answers = logits[given], answers[given]
    N = len(answers)
    squares, confidence, of_answer, right = (np.empty(N) for _ in range(4))
    for i, row in enumerate(logits):  # a vocabulary may be large: one row at a time
        p = np.exp(row.astype(np.float64) - row.max())
        p /= p.sum()
        squares[i], confidence[i], of_answer[i] = p @ p, p.max(), p[answers[i]]
        right[i] = row.argmax() == answers[i]
    bin_N = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_N, right - confidence, minlength=bins)
    return {
        'confidence': float(confidence.mean()),
        'ece': float(np.abs(gaps).sum() / N),
        'brier': float((squares - 2 * of_answer + 1).mean()),
    }
