"""Attributions against what they estimate: finite differences, loops, sums of effects."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy
from method_runs import activations, classes, context, fill, learned_from, scores_of

from cdjax.circuits.methods import METHODS, Request, exact_ablation, integrated
from cdjax.circuits.methods.attribution import attribution_scores
from cdjax.circuits.methods.class_scores import columns
from cdjax.circuits.methods.exact_ablation import exact_effects
from cdjax.circuits.methods.grad_drop import check_layers, grad_drop_effects
from cdjax.circuits.methods.patching import patching_effects, relp_effects
from cdjax.errors import InputError
from cdjax.inference.gradients import metric_gradients
from cdjax.inference.predictions import logit_difference, predict
from cdjax.models import SITES, Edit, LlamaConfig

UNITS = toy.L * toy.F


def some():
    return toy.dataset()[learned_from()]


def batch():
    return {name: jnp.asarray(values) for name, values in columns(some()).items()}


@functools.cache
def effects_of(effects, *, ablation='mean', site='neurons'):
    """Effects of the problems of `batch`, `[B, L, U]`: each is the average of its own class."""
    rows, of = learned_from(), np.zeros(len(toy.dataset()), np.int32)
    of[rows] = np.arange(len(rows))
    means = np.zeros((toy.L, toy.T, *SITES[site].shape(toy.teacher_config())), np.float32)
    shared = context(ablation=ablation, site=site, fill=fill() if site == 'neurons' else means)
    options = {'context': shared, 'effects': effects, 'average': 'signed'}
    return attribution_scores(toy.model(), toy.dataset(), rows, of, **options)


@functools.cache
def what_ablation_puts(ablation):
    """`[L, B, T, U]`."""
    if ablation == 'counterfactual':
        run = jax.jit(lambda m, t: m(t, capture=('neurons',), logits_at=())[1]['neurons'])
        return np.asarray(run(toy.model(), some().counterfactual_tokens))
    return np.broadcast_to(fill()[:, None], (toy.L, len(some()), toy.T, toy.F))


@functools.cache
def contributions():
    """What attention and MLPs of each layer add, by site, `[L, B, T, d]`."""
    run = jax.jit(lambda m, t: m(t, capture=('attention_out', 'mlp_out'), logits_at=())[1])
    return jax.device_get(run(toy.model(), batch()['tokens']))


def held(free):
    """Edits that leave contributions of layers as they are clean, but those that are free."""
    free = np.array(free, np.float32).reshape(toy.L, 1, 1, 1)
    return {name: Edit(free, (1 - free) * value) for name, value in contributions().items()}


@jax.jit
def difference(model, rows, edits):
    return logit_difference(model(rows['tokens'], edits=edits, logits_at=-1)[0], rows)


def slopes(unit, ablation, free=(1, 1), step=0.02):
    """What the logit difference loses to first order where a unit moves to its fill, `[B]`."""
    center = what_ablation_puts(ablation)

    def moved(part):
        scale = np.ones(UNITS, np.float32)
        scale[unit] -= part
        edit = Edit(scale.reshape(toy.L, 1, 1, toy.F), center=center)
        found = difference(toy.model(), batch(), {'neurons': edit, **held(free)})
        return np.asarray(found, np.float64)

    return (moved(-step) - moved(step)) / (2 * step)


@pytest.mark.parametrize('ablation', ['mean', 'counterfactual'])
def test_patching_is_the_slope_toward_the_fill_of_the_ablation_in_force(ablation):
    effects = effects_of(patching_effects, ablation=ablation)
    assert effects.shape == (len(some()), toy.L, toy.F)
    for unit in np.random.default_rng(0).permutation(UNITS)[:8]:
        found = effects.reshape(-1, UNITS)[:, unit]
        np.testing.assert_allclose(found, slopes(unit, ablation), rtol=0.05, atol=0.01)
    assert np.abs(effects).max() > 0.5


def test_patching_is_toward_what_each_ablation_puts_there():
    overall = np.broadcast_to(fill().mean(axis=1, keepdims=True), fill().shape)
    for ablation, means in {'zero': np.zeros_like(fill()), 'overall_mean': overall}.items():
        found = scores_of('atp', ablation=ablation)
        np.testing.assert_allclose(found, scores_of('atp', fill=means), rtol=1e-4, atol=1e-6)
        assert np.abs(found - scores_of('atp')).max() > 0.01


def test_with_grad_drop_the_first_layer_acts_on_the_logits_alone():
    """Of two layers, the other one is dropped: it says what it says, whatever the first does."""
    effects = effects_of(grad_drop_effects).reshape(-1, UNITS)
    for unit in (3, 17, 30):
        expected = np.abs(slopes(unit, 'mean', (1, 0)))
        np.testing.assert_allclose(effects[:, unit], expected, rtol=0.05, atol=0.01)
    plain = np.abs(effects_of(patching_effects)).reshape(-1, UNITS)
    np.testing.assert_allclose(effects[:, toy.F :], plain[:, toy.F :], rtol=1e-4, atol=1e-5)
    assert np.abs(effects - plain)[:, : toy.F].max() > 0.1


def metric(masks):
    """The logit difference with only the units of a mask `[L, U]`, `[B]`."""
    found = predict(toy.model(), some(), masks=np.asarray(masks)[None], fill=fill())
    return found.logit_difference


@pytest.fixture(scope='module', autouse=True)
def many_steps():
    """For sums that come close to the integrals; in all tests, which share programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrated, 'STEPS', 100)
        yield


def test_integrated_gradients_of_a_layer_sum_to_what_its_ablation_takes():
    effects = effects_of(integrated.activation_effects)
    whole = metric(np.ones((toy.L, toy.F)))
    for layer in range(toy.L):
        rest = np.ones((toy.L, toy.F))
        rest[layer] = 0
        lost = whole - metric(rest)
        np.testing.assert_allclose(effects[:, layer].sum(1), lost, rtol=0.01, atol=0.01)


def test_integrated_gradients_of_gates_sum_to_what_all_neurons_do():
    effects = effects_of(integrated.gate_effects)
    lost = metric(np.ones((toy.L, toy.F))) - metric(np.zeros((toy.L, toy.F)))
    np.testing.assert_allclose(effects.sum((1, 2)), lost, rtol=0.01, atol=0.01)


def test_integrated_gradients_over_inputs_sum_to_what_another_prompt_changes():
    """At the embeddings themselves, where the path is that of the site."""
    effects = effects_of(integrated.input_effects, site='residual', ablation='counterfactual')
    rows = batch()
    changed = {**rows, 'tokens': rows['counterfactual_tokens']}
    lost = difference(toy.model(), rows, {}) - difference(toy.model(), changed, {})
    np.testing.assert_allclose(effects[:, 0].sum(1), lost, rtol=0.02, atol=0.02)


def test_relevance_takes_the_place_of_the_gradient():
    run = jax.jit(lambda model, rows: metric_gradients(model, rows, backward='relp'))
    a, coefficients = (np.asarray(x, np.float64) for x in run(toy.model(), batch()))
    expected = ((a - fill()[:, None]) * coefficients).sum(2).swapaxes(0, 1)
    np.testing.assert_allclose(effects_of(relp_effects), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('ablation', ['mean', 'counterfactual'])
def test_exact_ablation_is_a_loop_over_units(ablation):
    effects = effects_of(exact_effects, ablation=ablation).reshape(-1, UNITS)
    ablated = functools.partial(predict, toy.model(), some(), ablation=ablation, fill=fill())
    whole = ablated(masks=np.ones((1, toy.L, toy.F))).logit_difference
    for unit in range(0, UNITS, 3):
        masks = np.ones(UNITS)
        masks[unit] = 0
        lost = whole - ablated(masks=masks.reshape(1, toy.L, toy.F)).logit_difference
        np.testing.assert_allclose(effects[:, unit], lost, rtol=1e-3, atol=1e-4)


def test_scores_average_effects_over_the_training_problems_of_each_class():
    of = classes()[learned_from()]
    run = jax.jit(lambda model, rows: metric_gradients(model, rows))
    a, g = run(toy.model(), batch())
    e = ((np.asarray(a, np.float64) - fill()[:, None]) * np.asarray(g)).sum(2).swapaxes(0, 1)
    for key, average in {
        'atp': lambda x: np.abs(x).mean(0),
        'atp_rms': lambda x: np.sqrt((x * x).mean(0)),
        'atp_signed': lambda x: x.mean(0),
    }.items():
        found = scores_of(key)
        assert found.shape == (of.max() + 1, toy.L, toy.F)
        for k in np.unique(of):
            np.testing.assert_allclose(found[k], average(e[of == k]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ('key', 'effects', 'averages'),
    [
        ('atp_grad_drop', grad_drop_effects, ('', '_rms')),
        ('integrated_gradients', integrated.activation_effects, ('', '_rms', '_signed')),
        ('integrated_gates', integrated.gate_effects, ('', '_rms', '_signed')),
        ('integrated_inputs', integrated.input_effects, ('', '_rms', '_signed')),
        ('relp', relp_effects, ('', '_rms', '_signed')),
    ],
)
def test_every_attribution_has_the_averages_that_tell_something_else(key, effects, averages):
    rows, of, shared = learned_from(), classes(), context()
    e = effects_of(effects)
    expected = {
        '': lambda x: np.abs(x).mean(0),
        '_rms': lambda x: np.sqrt(np.square(x).mean(0)),
        '_signed': lambda x: x.mean(0),
    }
    assert {name for name in expected if key + name in METHODS} == {*averages}
    for name in averages:
        found = METHODS[key + name].scores(toy.model(), toy.dataset(), rows, of, context=shared)
        for k in np.unique(classes()):
            average = expected[name](e[of[rows] == k])
            np.testing.assert_allclose(found[k], average, rtol=1e-3, atol=1e-4)
    assert len(shared.cache) == 1, 'they share one pass'


def test_exact_ablation_takes_as_many_problems_as_it_says(monkeypatch):
    monkeypatch.setattr(exact_ablation, 'PROBLEMS', 11)
    whole = scores_of('exact_ablation', of=np.zeros(len(toy.dataset()), np.int32))
    drawn = np.sort(np.random.default_rng(0).permutation(np.arange(len(some())))[:11])
    full = np.ones((toy.L, toy.F))
    without = full.copy()
    without[1, 5] = 0
    lost = (metric(full) - metric(without))[drawn]
    assert whole[0, 1, 5] == pytest.approx(np.abs(lost).mean(), rel=1e-3)


@pytest.fixture(scope='module')
def contexts():
    """Of the problems as they are, and as they are changed: methods share their passes."""
    return context(), context()


@pytest.mark.parametrize(
    'key', [m.key for m in METHODS.values() if m.scores and not m.trains and m.key != 'learned']
)
def test_no_method_reads_the_problems_that_are_evaluated(key, contexts):
    data, rows = toy.dataset(), toy.rows()
    other = {}
    for name, values in columns(data).items():
        if name != 'lengths':
            other[name] = values.copy()
            other[name][rows.test] = values[rows.test[::-1]]
    changed = dataclasses.replace(data, **other)
    assert (changed.answers != data.answers).any()
    found = [
        METHODS[key].scores(toy.model(), of, learned_from(), classes(), context=shared)
        for of, shared in zip((data, changed), contexts, strict=True)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize('everywhere', [True, False])
def test_deviation_is_that_from_the_positional_mean(everywhere):
    train, of = learned_from(), classes()[learned_from()]
    away = np.square(activations()[train] - fill()[None])
    away = away.sum(2) if everywhere else away[:, :, -1]
    found = scores_of('deviation' if everywhere else 'answer_deviation')
    for k in np.unique(classes()):
        np.testing.assert_allclose(found[k], np.sqrt(away[of == k].mean(0)), rtol=1e-4)


def ask(key, **changes):
    asked = {
        'num_classes': 1,
        'dataset': toy.dataset(),
        'shape': toy.teacher_config(),
        'discovery': None,
    }
    METHODS[key].check(Request(**{**asked, **changes}))


def test_what_attributions_refuse_before_a_model_is_loaded():
    for key in ('atp', 'integrated_inputs', 'exact_ablation', 'atp_grad_drop'):
        ask(key)
        lacking = toy.dataset().counterfactual_answers.copy()
        lacking[:3] = toy.dataset().answers[:3]
        bare = dataclasses.replace(toy.dataset(), counterfactual_answers=lacking)
        with pytest.raises(InputError, match=f'methods={key} needs a counterfactual.*3 of 155'):
            ask(key, dataset=bare)
    with pytest.raises(
        InputError, match=r'71,106,560 times.*458,752 units.*155 problems.*take atp'
    ):
        ask('exact_ablation', shape=LlamaConfig.preset('llama3_8b'))
    with pytest.raises(InputError, match='the model has one: take atp'):
        check_layers(1)
