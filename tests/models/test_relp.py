"""RelP: the same model, whose backward pass propagates relevance by the rules of LRP."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.inference.gradients import metric_gradients
from cdjax.models import SITES, Edit
from cdjax.models.rope import rope_rotation, rotate

TOKEN = 7


@pytest.fixture(scope='module')
def rows():
    some = toy.dataset()[:6]
    return {'tokens': jnp.asarray(some.tokens), 'lengths': jnp.asarray(some.lengths)}


@functools.partial(jax.jit, static_argnames='backward')
def forward(model, tokens, edits, backward):
    return model(tokens, edits=edits, capture=tuple(SITES), backward=backward)


def logit(logits, rows):
    return logits[:, TOKEN]


@functools.partial(jax.jit, static_argnames=('site', 'backward'))
def coefficients(model, rows, site, backward='relp'):
    return metric_gradients(model, rows, site=site, metric=logit, backward=backward)


def test_it_changes_no_bit_of_what_the_model_says(rows):
    mask = np.random.default_rng(0).random((toy.L, 1, 1, toy.F)) < 0.5
    edits = {'neurons': Edit(scale=jnp.asarray(mask, jnp.float32), center=0.1)}
    plain, relp = (forward(toy.model(), rows['tokens'], edits, b) for b in ('gradient', 'relp'))
    for expected, found in zip(jax.tree.leaves(plain), jax.tree.leaves(relp), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_relevance_is_conserved_in_every_layer(rows):
    """The rules are linear and no part has a bias: over a residual stream it sums to the logit."""
    logits = forward(toy.model(), rows['tokens'], {}, 'gradient')[0][:, -1, TOKEN]
    residual, coefficient = coefficients(toy.model(), rows, 'residual')
    relevance = np.asarray(residual * coefficient)
    for layer in range(toy.L):
        np.testing.assert_allclose(relevance[layer].sum((1, 2)), logits, rtol=1e-4, atol=1e-4)
    _, gradient = coefficients(toy.model(), rows, 'residual', 'gradient')
    plain = np.asarray(residual * gradient)[0].sum((1, 2))
    assert np.abs(plain - logits).max() > 0.1, 'gradients are not'


def test_relevance_of_neurons_is_that_of_lrp_written_out(rows):
    """Relevance handed down module by module, each receiver's split by what each sender gave it."""
    activations, coefficient = coefficients(toy.model(), rows, 'neurons')
    found = np.asarray(activations * coefficient)
    for row in range(len(rows['tokens'])):
        expected = relevance_of_neurons(np.asarray(rows['tokens'][row]))
        np.testing.assert_allclose(found[:, row], expected, rtol=2e-3, atol=2e-4)
    assert np.abs(found).max() > 0.1


def test_an_unknown_backward_pass():
    with pytest.raises(InputError, match="unknown backward 'lrp'; choose one of gradient, relp"):
        toy.model()(toy.dataset().tokens[:1], backward='lrp')


def handed_down(x_in, weight_in_out, relevance_out):
    """LRP-0 of `y = x W`: sender i gets `x_i W_ij / y_j` of the relevance of j."""
    given = x_in[:, None] * weight_in_out
    total = given.sum(0)
    return (given * (relevance_out / np.where(total == 0, 1, total))[None]).sum(1)


def relevance_of_neurons(tokens):
    """Relevance `[L, T, F]` of the logit of TOKEN at the last position, by NumPy in float64."""
    model = toy.model()
    c, T = model.config, len(tokens)
    weights = lambda part: np.asarray(part.weight[...], np.float64)
    x = weights(model.embed)[tokens]
    norm = lambda x, w: w * x / np.sqrt((x * x).mean(-1, keepdims=True) + c.norm_eps)
    kept = []
    for n in range(c.num_layers):
        layer = jax.tree.map(lambda leaf, n=n: leaf[n], model.layers)
        out, pattern = attend(layer.attention, norm(x, weights(layer.input_norm)), c, weights)
        before, middle = x, x + out['attention']
        y = norm(middle, weights(layer.mlp_norm))
        gate, up = y @ weights(layer.mlp.gate), y @ weights(layer.mlp.up)
        neurons = gate / (1 + np.exp(-gate)) * up
        x = middle + neurons @ weights(layer.mlp.down)
        kept.append((layer, before, middle, y, neurons, out, pattern, x))
    y = norm(x[-1], weights(model.norm))
    relevance = np.zeros_like(x)
    # A norm hands each coordinate its own relevance, for it only scales it.
    head = weights(model.embed).T if c.tie_embeddings else weights(model.lm_head)
    at_logits = np.zeros(head.shape[1])
    at_logits[TOKEN] = y @ head[:, TOKEN]
    relevance[-1] = handed_down(y, head, at_logits)
    of_neurons = np.zeros((c.num_layers, T, c.intermediate_size))
    for n in reversed(range(c.num_layers)):
        layer, before, middle, y, neurons, out, pattern, after = kept[n]
        share = relevance / after  # what is added gets relevance by its part of the sum
        into_mlp = (after - middle) * share
        relevance = middle * share
        down, gate, up = (weights(getattr(layer.mlp, name)) for name in ('down', 'gate', 'up'))
        for t in range(T):
            of_neurons[n, t] = handed_down(neurons[t], down, into_mlp[t])
            half = 0.5 * of_neurons[n, t]
            relevance[t] += handed_down(y[t], gate, half) + handed_down(y[t], up, half)
        share = relevance / middle
        into_attention, relevance = out['attention'] * share, before * share
        o, v = weights(layer.attention.o), weights(layer.attention.v)
        at_values = np.zeros_like(out['values'])  # [T, heads of keys and values, h]
        group = c.num_heads // c.num_kv_heads
        for t in range(T):
            at_heads = handed_down(out['heads'][t].ravel(), o, into_attention[t])
            at_heads = at_heads.reshape(c.num_heads, c.head_dim)
            for h in range(c.num_heads):
                given = pattern[h, t][:, None] * out['values'][:, h // group]
                at_values[:, h // group] += given * (at_heads[h] / given.sum(0))[None]
        for t in range(T):
            relevance[t] += handed_down(out['input'][t], v, at_values[t].ravel())
    return of_neurons


def attend(attention, y, c, weights):
    """Causal attention with rotated queries and keys; returns its parts and the pattern."""
    T = len(y)
    split = lambda x: x.reshape(T, -1, c.head_dim)
    rotation = rope_rotation(c, jnp.arange(T)[None])
    rotated = lambda x: np.asarray(rotate(jnp.asarray(split(x)[None], jnp.float32), rotation)[0])
    q, k = rotated(y @ weights(attention.q)), rotated(y @ weights(attention.k))
    values = split(y @ weights(attention.v))
    group = c.num_heads // c.num_kv_heads
    pattern = np.zeros((c.num_heads, T, T))
    heads = np.zeros((T, c.num_heads, c.head_dim))
    for h in range(c.num_heads):
        for t in range(T):
            score = k[: t + 1, h // group].astype(np.float64) @ q[t, h] / np.sqrt(c.head_dim)
            weight = np.exp(score - score.max())
            pattern[h, t, : t + 1] = weight / weight.sum()
            heads[t, h] = pattern[h, t] @ values[:, h // group]
    out = heads.reshape(T, -1) @ weights(attention.o)
    return {'attention': out, 'heads': heads, 'values': values, 'input': y}, pattern
