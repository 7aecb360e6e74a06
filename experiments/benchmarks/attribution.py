"""Attribution patching of every neuron: one forward and one backward pass over the prompts."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.inference import metric_gradients
from experiments.benchmarks.measure import OURS, compare, machine
from experiments.benchmarks.peers import TorchHooks, installed
from experiments.benchmarks.subject import make_subject


def run(workdir: Path, *, shape: str, rows: int, rounds: int) -> dict[str, Any]:
    """Measures the sum over prompts and positions of |(a - mean) gradient|, `[L, F]`."""
    subject = make_subject(shape, workdir, rows=rows)
    peers, absent = installed(subject.folder, subject.model.config, (TorchHooks,))
    answers, others = subject.answers
    batch = {
        'tokens': subject.tokens,
        'lengths': np.full(rows, subject.tokens.shape[1]),
        'answers': answers,
        'counterfactual_answers': others,
    }

    @jax.jit
    def scores(model, batch, fill):
        activations, gradients = metric_gradients(model, batch)
        return jnp.abs((activations - fill[:, None]) * gradients).sum((1, 2))

    ours = lambda: jax.block_until_ready(scores(subject.model, batch, subject.fill))
    theirs = lambda peer: peer.attribution(subject.tokens, answers, others, subject.fill)
    runs = {OURS: ours, **{k: lambda peer=peer: theirs(peer) for k, peer in peers.items()}}
    if 'transformers' in peers:
        np.testing.assert_allclose(runs[OURS](), runs['transformers'](), rtol=1e-2, atol=1e-4)
    return {'cases': {'attribution': compare(runs, rounds)}, 'absent': absent, 'machine': machine()}
