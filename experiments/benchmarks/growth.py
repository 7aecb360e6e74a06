"""How the cost of a pass grows with each size of the problem, and the exponent it follows."""

import dataclasses
from typing import Any

import jax
import numpy as np

from cdjax.inference import predict_circuits
from cdjax.models import Edit, LlamaConfig
from experiments.benchmarks import devices
from experiments.benchmarks.measure import compare, exponent
from experiments.benchmarks.subject import LENGTH, SHAPES, make_dataset, random_model
from experiments.benchmarks.training import discovery_steps

# What grows, through which sizes, and why the exponent is what it is.
CURVES = {
    'rows': ((64, 128, 256, 512), 'each row is the same work: 1, less what a call costs'),
    'length': ((8, 16, 32, 64), 'products are linear in T, attention quadratic and small here'),
    'layers': ((5, 10, 20, 40), 'the loop runs one block after the other: 1'),
    'neurons': ((512, 1024, 2048, 4096), 'the MLP is linear in F, attention does not grow'),
    'width': ((128, 256, 512), 'attention is quadratic in d at fixed F, the MLP linear'),
    'masks': ((2, 4, 8, 16), 'each circuit is a pass of its own smaller model: 1'),
    'problems of a discovery step': ((32, 64, 128, 256), 'each problem has its own mask: 1'),
    'classes of a discovery step': ((2, 8, 32, 128), 'masks are D a class, the ablated model is D'),
    'devices of a training step': (
        (1, 2, 4, 8),
        'all together: rows are divided, the products are the same: 0, and what gathers cost',
    ),
    'neurons of a discovery step': (
        (2048, 16384, 114688, 458752),
        'weights, masks and activations are each linear in D: 1',
    ),
}
# Layers and neurons a layer of models of so many neurons, the last that of Llama 3 8B; 64 wide.
DEPTHS = {2048: (2, 1024), 16384: (8, 2048), 114688: (16, 7168), 458752: (32, 14336)}
BASE = dataclasses.replace(SHAPES['small'], num_layers=6)
FIELDS = {'layers': 'num_layers', 'neurons': 'intermediate_size', 'width': 'hidden_size'}


def run(*, rounds: int) -> dict[str, Any]:
    """Measures each curve, its sizes in turn: the least CPU seconds of a call."""
    found = {}
    for name, (sizes, reason) in CURVES.items():
        if name.startswith('devices'):
            cpu = devices.cpu_seconds(sizes, rounds)
        else:
            seconds = compare({str(n): _call(name, n) for n in sizes}, rounds)['seconds']
            cpu = [seconds[str(n)]['cpu'] for n in sizes]
        found[name] = {
            'sizes': list(sizes),
            'cpu_seconds': cpu,
            'exponent': exponent(sizes, cpu),
            'reason': reason,
        }
    return {'curves': found}


def _discovery(name, n):
    if name == 'neurons':
        layers, width = DEPTHS[n]
        return discovery_steps(LlamaConfig(256, 64, width, layers, 2, 2, 32), 8)
    shape = LlamaConfig(256, 128, 512, 2, 4, 2, 32)  # the embedded teacher's
    return discovery_steps(
        shape, **({'rows': n} if name == 'problems' else {'rows': 128, 'classes': n})
    )


def _call(name, n):
    if name.endswith('discovery step'):
        return _discovery(name.split()[0], n)
    config = dataclasses.replace(BASE, **({FIELDS[name]: n} if name in FIELDS else {}))
    model = random_model(config)
    rows, length = (n if name == 'rows' else 128), (n if name == 'length' else LENGTH)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (rows, length))
    if name == 'masks':
        dataset = make_dataset(tokens, rng.integers(0, config.vocab_size, (2, rows)))
        masks = rng.random((n, 1, config.num_layers, config.intermediate_size)) < 0.1
        return lambda: predict_circuits(model, dataset, masks)
    masks = jax.device_put(rng.random((config.num_layers, rows, 1, config.intermediate_size)) < 0.5)
    run = jax.jit(lambda m, t, k: m(t, edits={'neurons': Edit(k)}, logits_at=-1)[0])
    return lambda: jax.block_until_ready(run(model, tokens, masks))
