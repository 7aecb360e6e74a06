import functools

import hlo
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.inference.gradients import metric_gradients, unit_gradients
from cdjax.inference.rows import map_rows
from cdjax.models import SITES, Edit


@pytest.fixture(scope='module')
def some():
    return toy.dataset()[::4]


def rows_of(problems):
    names = ('tokens', 'lengths', 'answers', 'counterfactual_answers')
    return {name: getattr(problems, name) for name in names}


@functools.cache
def of_site(site):
    def of_rows(model, rows):
        by_layer = metric_gradients(model, rows, site=site)
        return tuple(jnp.moveaxis(values, 1, 0) for values in by_layer)

    return of_rows


def activations_and_gradients(problems, site='neurons'):
    """Both of a data set, `[N, L, T, ...]`, in passes of 16 problems: the last is filled up."""
    return map_rows(of_site(site), toy.model(), rows_of(problems), tokens_per_pass=16 * toy.T)


CHECKED = ('neurons', 'head_out', 'residual')


@jax.jit
def difference(model, rows, shifts):
    edits = {site: Edit(shift=shift) for site, shift in shifts.items()}
    logits = model(rows['tokens'], edits=edits, logits_at=-1)[0]
    each = jnp.arange(len(logits))
    return logits[each, rows['answers']] - logits[each, rows['counterfactual_answers']]


@pytest.mark.parametrize('site', CHECKED)
def test_gradients_are_finite_differences_of_the_logit_difference(some, site):
    """At entries at random, of each problem its own: no problem's shift moves another's metric."""
    activations, gradients = activations_and_gradients(some, site)
    assert activations.shape == gradients.shape == (len(some), toy.L, toy.T, *activations.shape[3:])
    shape_of = lambda site: SITES[site].shape(toy.teacher_config())
    none = {s: np.zeros((toy.L, len(some), toy.T, *shape_of(s)), np.float32) for s in CHECKED}

    def run(shift):
        found = difference(toy.model(), rows_of(some), none | {site: shift})
        return np.asarray(found, np.float64)

    rng, step = np.random.default_rng(0), 0.01
    rows = np.arange(len(some))
    for _ in range(5):
        entry = tuple(
            rng.integers(size, size=len(some)) for size in (toy.L, toy.T, *gradients.shape[3:])
        )
        at = (entry[0], rows, *entry[1:])
        shift = none[site].copy()
        shift[at] = step
        slope = (run(shift) - run(-shift)) / (2 * step)
        np.testing.assert_allclose(gradients[(rows, *entry)], slope, rtol=0.05, atol=0.02)
    assert np.abs(gradients).max() > 0.5


def test_activations_are_those_of_the_clean_model(some):
    activations, _ = activations_and_gradients(some)
    run = jax.jit(lambda m, tokens: m(tokens, capture=('neurons',), logits_at=-1)[1]['neurons'])
    expected = np.moveaxis(np.asarray(run(toy.model(), some.tokens)), 1, 0)
    np.testing.assert_allclose(activations, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_under_an_edit_of_the_same_site_and_of_any_metric(some):
    """With half of each neuron, the shift comes behind the edit: d/dh of `0.5 x + h`."""
    rows = {
        'tokens': jnp.asarray(some.tokens),
        'lengths': jnp.asarray(some.lengths),
    }
    half = {'neurons': Edit(scale=0.5)}
    metric = lambda logits, rows: logits[:, 3] ** 2
    found = jax.jit(lambda rows: metric_gradients(toy.model(), rows, edits=half, metric=metric))
    activations, gradients = found(rows)

    def total(shift):
        edits = {'neurons': Edit(0.5, shift)}
        return (toy.model()(rows['tokens'], edits=edits, logits_at=-1)[0][:, 3] ** 2).sum()

    expected = jax.jit(jax.grad(total))(jnp.zeros(activations.shape))
    np.testing.assert_allclose(gradients, expected, rtol=1e-4, atol=1e-5)
    run = jax.jit(lambda t: toy.model()(t, capture=('neurons',), logits_at=-1)[1]['neurons'])
    np.testing.assert_allclose(activations[0], 0.5 * run(some.tokens)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('site', CHECKED)
def test_a_number_of_each_unit_has_the_sum_over_its_positions_and_coordinates(some, site):
    activations, gradients = activations_and_gradients(some, site)  # [N, L, T, U, ...]
    fill = np.random.default_rng(0).normal(size=activations.shape[1:]).astype(np.float32)
    removed = (activations - fill) * gradients
    expected = removed.sum((2, *range(4, removed.ndim)))
    rows = rows_of(some)
    edit_of = lambda x: Edit(1 + x, center=fill[:, None])
    found = jax.jit(lambda rows: unit_gradients(toy.model(), rows, edit_of, site=site))(rows)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_what_already_is_the_fill_has_no_effect_beyond_rounding(some):
    rows = rows_of(some)

    @jax.jit
    def effects(rows):
        same, _ = metric_gradients(toy.model(), rows)
        of = lambda fill: unit_gradients(toy.model(), rows, lambda x: Edit(1 + x, center=fill))
        return of(same), of(0 * same)

    none, whole = effects(rows)
    assert np.abs(none).max() < 1e-6 * np.abs(whole).max()


def test_the_last_layer_runs_where_logits_are_read(some):
    """Forward and backward: of layer 1 all products but keys and values are of one position."""
    rows = rows_of(some)
    step = jax.jit(lambda rows: unit_gradients(toy.model(), rows, lambda x: Edit(1 + x)))
    lines = step.lower(rows).compile().as_text().splitlines()
    down, width = toy.teacher_config().hidden_size, toy.F
    shapes = [shape for _, shape in hlo.results(lines, 'dot')]
    everywhere, read = len(some) * toy.T, len(some)
    # gate and up; the gradient of what the down projection reads.
    assert shapes.count((everywhere, width)) == shapes.count((read, width)) == 3, shapes
    assert (everywhere, down) in shapes
