"""Whether arms of interchange can be told apart: what the patched teacher answers for each.

Their target is no activation but an answer, and an answer that no patch changes is that of KD: two
such arms ask for different things only where a patch of either changes something, and the two
answers differ there.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cdjax.distillation.interchange import Interchange
from cdjax.losses import TopKLogits

# Of the share, at most, evenly spread over it: of each pair of a problem and a source all tokens
# are held.
PROBLEMS = 256

# Where the two answers are the same in more than this part of those that a patch changes, most of
# what one arm teaches the other does. The bound of a CKA is another: that of unlike targets may be
# high, and unlike answers are never the same.
MOSTLY = 0.5


def some_problems(total: int) -> np.ndarray:
    """Returns the problems whose patched answers are compared, at most `PROBLEMS`, int `[n]`."""
    return np.unique(np.linspace(0, total - 1, min(total, PROBLEMS)).round().astype(int))


def patched_headroom(
    patched: Mapping[str, Interchange],
    unpatched: np.ndarray | TopKLogits,
    *,
    temperature: float,
    vocab_size: int,
) -> list[dict[str, Any]]:
    """Returns how the patched answers of each arm agree with the unpatched, and with each other's.

    Two arms are compared on the pairs of a problem and a source that both patch; of arms whose
    sources are others, such as those of other classes, nothing is said.

    Args:
        patched: what the teacher answers for each arm to the same n problems, in memory.
        unpatched: its logits `[n, V]` of these without a patch, or the top k.
        temperature: that students are taught at; `TopKLogits` have it already.
        vocab_size: V.

    Returns:
        One dict for each arm and the unpatched teacher (`other` and `same` None), then one for each
        two arms: `arm`, `other`, and what `compare_answers` returns.
    """
    plain = softened(unpatched, temperature, vocab_size)
    said = {
        arm: [
            softened(jax.tree.map(lambda x, r=r: x[:, r], found.logits), temperature, vocab_size)
            for r in range(found.sources.shape[1])
        ]
        for arm, found in patched.items()
    }
    # What a patch changes is never what is answered without it.
    rows = [
        {'arm': arm, 'other': None, **compare_answers(own, [plain] * len(own), plain), 'same': None}
        for arm, own in said.items()
    ]
    for a, b in itertools.combinations(said, 2):
        if np.array_equal(patched[a].sources, patched[b].sources):
            rows.append({'arm': a, 'other': b, **compare_answers(said[a], said[b], plain)})
    return rows


def compare_answers(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray], plain: np.ndarray
) -> dict[str, float | None]:
    """Returns how two arms' patched answers agree, source by source.

    Args:
        one: R distributions `[n, V]`, of the answers with each source.
        other: likewise.
        plain: `[n, V]`, without a patch.

    Returns:
        `agreement`, 1 − the mean Jensen–Shannon divergence in bits, which is 1 of equal answers and
        0 of answers that have no token in common; `moved`, the part of the n × R pairs whose most
        likely token either changes; and `same`, the part of these in which both have the same one,
        None where there are none.
    """
    apart = [jensen_shannon(p, q) for p, q in zip(one, other, strict=True)]
    first, second = (np.stack([p.argmax(axis=-1) for p in each]) for each in (one, other))
    before = plain.argmax(axis=-1)
    moved = (first != before) | (second != before)
    return {
        'agreement': 1 - float(np.mean(apart)),
        'moved': float(moved.mean()),
        'same': float((first == second)[moved].mean()) if moved.any() else None,
    }


def alike_patches(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str, float | None]]:
    """Returns two arms each whose patches ask for the same, the most alike first.

    Their answers are the same in more than `MOSTLY` of the pairs in which either changes, or none
    changes at all (None, and first).

    Args:
        rows: what `patched_headroom` returns.
    """
    told = [(row['arm'], row['other'], row['same']) for row in rows if row['other'] is not None]
    alike = [pair for pair in told if pair[2] is None or pair[2] > MOSTLY]
    return sorted(alike, key=lambda pair: -1.0 if pair[2] is None else -pair[2])


def softened(logits: np.ndarray | TopKLogits, temperature: float, vocab_size: int) -> np.ndarray:
    """Returns the distributions that students are taught, float32 `[n, V]`.

    Of the top k, what is left is shared equally among the other tokens.

    Args:
        logits: `[n, V]`, or the top k, which hold the temperature.
        temperature: T.
        vocab_size: V.
    """
    if not isinstance(logits, TopKLogits):
        return np.asarray(jax.nn.softmax(np.asarray(logits, np.float32) / temperature, axis=-1))
    kept = np.exp(np.asarray(logits.log_probabilities, np.float32))
    k = kept.shape[-1]
    rest = np.maximum(1 - kept.sum(axis=-1, keepdims=True), 0) / max(vocab_size - k, 1)
    whole = np.repeat(rest, vocab_size, axis=-1)
    np.put_along_axis(whole, np.asarray(logits.indices), kept, axis=-1)
    return whole


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the Jensen–Shannon divergence of distributions over the last axis, in bits: 0 to 1.

    Args:
        p: `[n, V]`.
        q: of the same shape.
    """
    middle = (p + q) / 2
    # A token that is impossible in one adds nothing there.
    ratios = [np.divide(x, middle, out=np.ones_like(x), where=x > 0) for x in (p, q)]
    bits = sum((x * np.log2(ratio)).sum(axis=-1) for x, ratio in zip((p, q), ratios, strict=True))
    return np.clip(bits / 2, 0, 1)
