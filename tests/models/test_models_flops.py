"""FLOPs against counts by hand, and against XLA's count of one layer."""

import jax
import jax.numpy as jnp
import pytest

from cdjax.models import LlamaConfig
from cdjax.models.flops import block_parameters, forward_flops
from cdjax.models.parameters import abstract_model


@pytest.mark.parametrize('preset', ['llama3_8b', 'llama32_1b', 'llama3_70b'])
def test_block_parameters_are_those_of_the_model(preset):
    config = getattr(LlamaConfig, preset)()
    matrices = [x for x in jax.tree.leaves(abstract_model(config).layers) if x.ndim == 3]
    assert block_parameters(config) == sum(x.size for x in matrices)


def test_flops_by_hand():
    # d 4, F 6, 2 layers, 2 heads of 2, 1 key-value head: q 4x4, k and v 4x2, o 4x4, three 4x6.
    config = LlamaConfig(10, 4, 6, 2, 2, 1, 2)
    matrices = 2 * (4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 6)
    # Positions see 1 + 2 + 3 keys; 2 layers, 2 heads of width 2, scores and values.
    attention = 2 * 2 * (1 + 2 + 3) * 2 * 2 * 2
    by_hand = 2 * 3 * matrices + attention + 2 * 4 * 10
    assert forward_flops(config, 1, 3, 1) == by_hand
    assert forward_flops(config, 5, 3, 5) == 5 * by_hand


def test_flops_against_xla():
    """One layer, for XLA counts a scan's body once; XLA also computes the masked scores."""
    config = LlamaConfig(64, 128, 512, 1, 4, 2, 32)
    rows, length = 4, 16
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    run = jax.jit(lambda model, tokens: model(tokens)[0])
    counted = run.lower(abstract_model(config), tokens).compile().cost_analysis()['flops']
    ours = forward_flops(config, rows, length, rows * length)
    masked = 2 * rows * length * (length - 1) * 4 * 32
    # Norms, rotations, softmax and SiLU are the rest.
    assert 0 <= counted - ours - masked <= 0.05 * counted
