"""Debiased linear CKA with its gradient, over rows and widths, against the products it needs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cdjax.losses import linear_cka
from experiments.benchmarks.measure import OURS, against_limit, compare, machine

SIZES = ((256, 1024), (1024, 1024), (1024, 4096))


def run(*, rounds: int) -> dict[str, Any]:
    """Measures value and gradient to x of two feature sets `[n, width]`, float32."""
    found, (theirs, absent) = {}, _peers()
    step = jax.jit(jax.value_and_grad(linear_cka))
    limit = machine()
    for n, width in SIZES:
        x, y = np.random.default_rng(0).normal(size=(2, n, width)).astype(np.float32)
        ours = jax.device_put((x, y))
        runs = {OURS: lambda ours=ours: jax.block_until_ready(step(*ours))}
        runs |= {k: lambda f=f, x=x, y=y: _torch_step(f, x, y) for k, f in theirs.items()}
        result = compare(runs, rounds)
        # Two Gram matrices, and the gradient of one of them times x; or the other form's.
        gram, features = 2 * n * n * 3 * width, 2 * n * width * width * 5
        found[f'n={n} width={width}'] = result | against_limit(min(gram, features), result, limit)
    return {'cases': found, 'absent': absent, 'machine': limit}


def _torch_step(function, x, y):
    import torch

    x, y = torch.tensor(x, requires_grad=True), torch.tensor(y)
    if function.__name__ == 'cka_batch':  # of one batch
        function(x[None], y[None]).sum().backward()
    else:
        function(x, y)[0, 0].backward()
    return x.grad


def _peers() -> tuple[dict[str, Callable], list[str]]:
    """Returns the functions of the packages that are installed, and the names of the others."""
    theirs, absent = {}, []
    try:
        from cka import cka_from_features

        theirs['cka'] = cka_from_features
    except ImportError:
        absent.append('cka')
    try:
        from ckatorch.core import cka_batch

        theirs['ckatorch.core'] = cka_batch
    except ImportError:
        absent.append('ckatorch.core')
    return theirs, absent
