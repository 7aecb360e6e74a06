"""How the cost of a pass grows with each size of the problem, and the exponent it follows."""

import dataclasses
from typing import Any

import jax
import numpy as np

from cdjax.inference import predict_circuits
from cdjax.models import Edit, Llama
from experiments.benchmarks.measure import compare, exponent
from experiments.benchmarks.subject import SHAPES, make_dataset

# What grows, through which sizes, and why the exponent is what it is.
CURVES = {
    'rows': ((64, 128, 256, 512), 'each row is the same work: 1, less what a call costs'),
    'length': ((8, 16, 32, 64), 'products are linear in T, attention quadratic and small here'),
    'layers': ((5, 10, 20, 40), 'the loop runs one block after the other: 1'),
    'neurons': ((512, 1024, 2048, 4096), 'the MLP is linear in F, attention does not grow'),
    'width': ((128, 256, 512), 'attention is quadratic in d at fixed F, the MLP linear'),
    'masks': ((2, 4, 8, 16), 'each circuit is a pass of its own smaller model: 1'),
}
BASE = dataclasses.replace(SHAPES['small'], num_layers=6)
FIELDS = {'layers': 'num_layers', 'neurons': 'intermediate_size', 'width': 'hidden_size'}


def run(*, rounds: int) -> dict[str, Any]:
    """Measures each curve, its sizes in turn: the least CPU seconds of a call."""
    found = {}
    for name, (sizes, reason) in CURVES.items():
        seconds = compare({str(n): _call(name, n) for n in sizes}, rounds)['seconds']
        cpu = [seconds[str(n)]['cpu'] for n in sizes]
        found[name] = {
            'sizes': list(sizes),
            'cpu_seconds': cpu,
            'exponent': exponent(sizes, cpu),
            'reason': reason,
        }
    return {'curves': found}


def _call(name, n):
    config = dataclasses.replace(BASE, **({FIELDS[name]: n} if name in FIELDS else {}))
    model = jax.jit(lambda key: Llama(config, key))(jax.random.key(0))
    rows, length = (n if name == 'rows' else 128), (n if name == 'length' else 8)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (rows, length))
    if name == 'masks':
        dataset = make_dataset(tokens, rng.integers(0, config.vocab_size, (2, rows)))
        masks = rng.random((n, 1, config.num_layers, config.intermediate_size)) < 0.1
        return lambda: predict_circuits(model, dataset, masks)
    masks = jax.device_put(rng.random((config.num_layers, rows, 1, config.intermediate_size)) < 0.5)
    run = jax.jit(lambda m, t, k: m(t, edits={'neurons': Edit(k)}, logits_at=-1)[0])
    return lambda: jax.block_until_ready(run(model, tokens, masks))
