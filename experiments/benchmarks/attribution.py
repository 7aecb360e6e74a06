"""Attribution of every neuron: by patching, whose peers are compared with, and by its kin."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.circuits.methods.integrated import activation_effects, gate_effects
from cdjax.circuits.methods.patching import patching_effects, relp_effects
from experiments.benchmarks.measure import OURS, against_limit, compare, machine
from experiments.benchmarks.peers import TorchHooks, installed
from experiments.benchmarks.subject import check_equal, make_subject

KIN = {
    'AtP': patching_effects,
    'RelP': relp_effects,
    'integrated gates': gate_effects,
    'integrated gradients': activation_effects,
}


def run(workdir: Path, *, shape: str, rows: int, rounds: int, dtype: str) -> dict[str, Any]:
    """Measures the sum over prompts of |Σ_t (a - mean) · gradient|, `[L, F]`."""
    subject = make_subject(shape, workdir, rows=rows, dtype=dtype)
    peers, absent = installed(subject.folder, subject.model.config, dtype, (TorchHooks,))
    answers, others = subject.answers
    batch = {
        'tokens': subject.tokens,
        'lengths': np.full(rows, subject.tokens.shape[1]),
        'answers': answers,
        'counterfactual_answers': others,
    }

    constants = {'model': subject.model, 'fill': subject.fill}
    how = {'site': 'neurons', 'ablation': 'mean'}
    scores = jax.jit(lambda *inputs: jnp.abs(patching_effects(*inputs, **how)).sum(0))
    ours = lambda: jax.block_until_ready(scores(constants, batch))
    theirs = lambda peer: peer.attribution(subject.tokens, answers, others, subject.fill)
    runs = {OURS: ours, **{k: lambda peer=peer: theirs(peer) for k, peer in peers.items()}}
    if 'transformers' in peers:
        check_equal(runs[OURS](), runs['transformers'](), subject.dtype)
    found, limit = compare(runs, rounds), machine(dtype)
    flops = 2 * subject.flops  # forward, and backward to activations: weights take no gradient
    found |= against_limit(flops, found, limit)
    few = {name: values[: max(rows // 8, 1)] for name, values in batch.items()}
    kin = {name: _effects(effects, constants, few, how) for name, effects in KIN.items()}
    cases = {'attribution': found, 'an eighth of the prompts': compare(kin, rounds, base='AtP')}
    return {'cases': cases, 'absent': absent, 'machine': limit}


def _effects(effects, constants, batch, how):
    """Returns a call of a method's effects `[B, L, F]`, summed over the prompts."""
    run = jax.jit(lambda *inputs: effects(*inputs, **how).sum(0))
    return lambda: jax.block_until_ready(run(constants, batch))
