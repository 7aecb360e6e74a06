"""The last layer, computed where it is read only, against the whole of it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.models import SITES, Capture, Edit

B, T, F = 3, toy.T, toy.F
ROWS = np.array([2, 0, -1])
PLACES = {'the end': -1, 'a position': 2, 'rows': ROWS}


@pytest.fixture(scope='module')
def tokens():
    return toy.dataset().tokens[:B]


def edits():
    """Fields with every axis and positions of each kind, which the last layer must cut alike."""
    random = lambda *shape: np.random.default_rng(shape).normal(size=shape).astype(np.float32)
    return {
        'head_out': Edit(shift=random(toy.L, B, T, 1, 1), positions=jnp.asarray(ROWS)),
        'attention_out': Edit(scale=random(T, 1), positions=(0, -1)),
        'neurons': Edit(random(toy.L, B, 1, F), center=random(toy.L, 1, T, F)),
        'mlp_out': Edit(shift=random(B, T, 1)).then(Edit(scale=random(T, 1), positions=(2, 4))),
    }


@functools.cache
def whole():
    run = jax.jit(lambda m, t: m(t, edits=edits(), capture=tuple(SITES)))
    return run(toy.model(), toy.dataset().tokens[:B])


# Each site at one position that all rows share, by turns one and the end, and at one of each.
@pytest.mark.parametrize(
    ('site', 'where'),
    [
        *((None, where) for where in PLACES),
        *zip(SITES, itertools.cycle(['a position', 'the end'])),
        *((site, 'rows') for site in SITES),
    ],
)
def test_one_position_is_that_of_the_whole_pass(tokens, where, site):
    at = PLACES[where]
    row, picked = np.arange(B), np.broadcast_to(at, B)
    logits, activations = whole()

    def run(model, tokens):
        positions = (at,) if isinstance(at, int) else jnp.asarray(at)
        capture = () if site is None else (Capture(site, positions=positions),)
        logits_at = at if isinstance(at, int) else positions
        return model(tokens, edits=edits(), capture=capture, logits_at=logits_at)

    found, taken = jax.jit(run)(toy.model(), tokens)
    np.testing.assert_allclose(found, logits[row, picked], rtol=1e-4, atol=1e-5)
    if site is not None:
        expected = np.asarray(activations[site])[:, row, picked][:, :, None]
        np.testing.assert_allclose(taken[site], expected, rtol=1e-4, atol=1e-5)


def products_over(captures, logits_at, tokens):
    """How often [B, P, F] neurons come out of a product at all positions, and at one."""
    run = lambda t: toy.model()(t, capture=captures, logits_at=logits_at)
    lines = [
        line for line in str(jax.make_jaxpr(run)(tokens)).splitlines() if 'dot_general' in line
    ]
    count = lambda positions: sum(f'f32[{B},{positions},{F}]' in line for line in lines)
    return count(T), count(1)


def test_no_more_of_the_last_layer_is_computed_than_is_read(tokens):
    """Gate and up of each layer are such products; logits elsewhere, or all, need the whole."""
    here = (T - 1,)
    assert products_over((), -1, tokens) == (2 * toy.L - 2, 2)
    assert products_over((Capture('neurons', positions=here),), -1, tokens) == (2 * toy.L - 2, 2)
    assert products_over((Capture('neurons', positions=here),), 0, tokens) == (2 * toy.L, 0)
    assert products_over(('neurons',), -1, tokens) == (2 * toy.L, 0)
    assert products_over(('residual',), -1, tokens) == (2 * toy.L - 2, 2)
    assert products_over((), None, tokens) == (2 * toy.L, 0)
