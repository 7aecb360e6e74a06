"""The gradient doctor on a small model with one healthy term and one of each illness."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdjax import losses
from cdjax.training.diagnostics import GradientDoctor, GradientError, gradient_report


class Model(nnx.Module):
    """A classifier and a generator, in two groups, and a counter that is no parameter."""

    def __init__(self, key):
        rngs = nnx.Rngs(key)
        self.classifier = nnx.Linear(4, 3, rngs=rngs)
        self.generator = nnx.Linear(3, 5, rngs=rngs)
        self.calls = jnp.int32(3)


@pytest.fixture(scope='module')
def model():
    return Model(0)


@pytest.fixture(scope='module')
def batch():
    return jax.random.normal(jax.random.key(1), (8, 4))


def healthy(model, batch):
    p = jax.nn.softmax(model.classifier(batch))
    return {
        'task': jnp.mean(jnp.square(model.generator(p))),
        'usage': losses.mutual_information_loss(p),
        'size': jnp.sum(jnp.square(model.generator.kernel[...])),
        'count': model.calls * 1.0,
    }


def test_figures_are_those_of_plain_gradients(model, batch):
    report = gradient_report(
        healthy, model, batch, task='task', weights={'usage': 0.5, 'size': 2.0}
    )
    assert report.groups == ('classifier', 'generator')
    assert list(report.terms) == ['task', 'usage', 'size', 'count']

    def numbers(name):
        graph, parameters, rest = nnx.split(model, nnx.Param, ...)
        loss = lambda parameters: healthy(nnx.merge(graph, parameters, rest), batch)[name]
        value, gradient = jax.jit(jax.value_and_grad(loss))(parameters)
        pure = nnx.to_pure_dict(gradient)
        return float(value), {
            group: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(pure[group])])
            for group in ('classifier', 'generator')
        }

    _, task = numbers('task')
    task = np.concatenate(list(task.values()))
    for name, weight in (('task', 1.0), ('usage', 0.5), ('size', 2.0)):
        value, gradient = numbers(name)
        term = report.terms[name]
        assert term.value == pytest.approx(value, rel=1e-5)
        assert term.weight == weight
        for group, part in gradient.items():
            assert term.group_norms[group] == pytest.approx(
                np.linalg.norm(part), rel=1e-4, abs=1e-6
            )
        whole = np.concatenate(list(gradient.values()))
        cosine = whole @ task / np.linalg.norm(whole) / np.linalg.norm(task)
        assert term.norm == pytest.approx(np.linalg.norm(whole), rel=1e-4)
        assert term.cosine == pytest.approx(cosine, abs=1e-4)
        assert term.angle == pytest.approx(math.degrees(math.acos(min(cosine, 1))), abs=0.1)
    # A term that is only logged may be constant.
    assert report.terms['count'].norm == 0
    assert report.terms['count'].value == 3
    assert math.isnan(report.terms['count'].angle)

    table = str(report)
    assert [line.split()[0] for line in table.splitlines()[:5]] == ['term', *report.terms]
    assert 'classifier' in table.splitlines()[0]
    scalars = report.scalars()
    assert scalars['usage/gradient/classifier'] == report.terms['usage'].group_norms['classifier']
    assert 'count/angle' not in scalars


def test_groups_are_prefixes_of_names_and_the_rest_is_one_group(model, batch):
    report = gradient_report(
        healthy,
        model,
        batch,
        task='task',
        weights={},
        groups=['generator.kernel', 'classifier'],
    )
    assert report.groups == ('generator.kernel', 'classifier', '(rest)')
    norms = report.terms['size'].group_norms
    assert norms['generator.kernel'] > 0
    assert norms['classifier'] == norms['(rest)'] == 0


def sick(model, batch):
    """Each term beside the healthy task has its own illness."""
    logits = model.classifier(batch)
    features = model.generator(jax.nn.softmax(logits))
    return {
        'task': jnp.mean(jnp.square(features)),
        'detached': losses.cka_loss(jax.lax.stop_gradient(features), batch),
        'constant': losses.usage_entropy(jnp.ones((8, 1))),
        'nan gradient': jnp.sqrt(jnp.sum(0 * features)),
        'nan': jnp.sum(features) * jnp.nan,
        'argmax': jnp.mean(jnp.square(model.generator(jax.nn.one_hot(logits.argmax(1), 3)))),
    }


SICK_WEIGHTS = {'detached': 1.0, 'constant': 0.5, 'nan gradient': 2.0, 'nan': 1.0, 'argmax': 1.0}


def test_each_illness_is_named_and_the_healthy_terms_keep_their_figures(model, batch):
    with pytest.raises(GradientError) as caught:
        gradient_report(
            sick,
            model,
            batch,
            task='task',
            weights=SICK_WEIGHTS,
            reaches={'task': ['classifier'], 'argmax': ['classifier', 'generator']},
        )
    failures = dict(zip(SICK_WEIGHTS, caught.value.failures, strict=True))
    assert 'is detached: its value moves with the parameters' in failures['detached']
    assert 'does not depend on the parameters' in failures['constant']
    assert 'not finite in classifier, generator' in failures['nan gradient']
    assert failures['nan'] == 'nan (weight 1) is nan'
    assert 'does not reach classifier' in failures['argmax']
    for name, failure in failures.items():
        assert failure.startswith(f'{name} (weight ')
        assert failure in str(caught.value)
    assert not caught.value.report.finite
    # One NaN in a sum of terms spoils the gradient of all; the blame stays with its owner.
    terms = caught.value.report.terms
    well = gradient_report(healthy, model, batch, task='task', weights={}).terms['task']
    assert terms['task'].group_norms == pytest.approx(well.group_norms, rel=1e-5)
    assert math.isnan(terms['nan gradient'].norm)


def test_a_zero_gradient_can_be_allowed_and_weight_0_asks_for_nothing(model, batch):
    weights = dict.fromkeys(SICK_WEIGHTS, 0.0) | {'constant': 0.5}
    finite = lambda model, batch: {
        name: term for name, term in sick(model, batch).items() if 'nan' not in name
    }
    weights = {name: weight for name, weight in weights.items() if 'nan' not in name}
    report = gradient_report(
        finite, model, batch, task='task', weights=weights, allow_zero={'constant': 'one class'}
    )
    assert report.failures == ()
    assert 'constant has a zero gradient, as allowed: one class' in report.notes
    with pytest.raises(GradientError, match=r'constant \(weight 0.5\) has a zero gradient'):
        gradient_report(finite, model, batch, task='task', weights=weights)


def test_a_group_that_no_weighted_term_trains_is_noted():
    params = {'used': jnp.ones(2), 'idle': jnp.ones(3)}
    report = gradient_report(
        lambda p: {'task': jnp.sum(p['used'] ** 2), 'decay': jnp.sum(p['idle'] ** 2)},
        params,
        task='task',
        weights={'decay': 0.0},
    )
    assert report.notes == ('no weighted term trains idle',)
    assert report.terms['decay'].angle == pytest.approx(90) or math.isnan(
        report.terms['decay'].angle
    )


def test_a_doctor_is_compiled_once_and_leaves_the_verdict_to_its_caller():
    traced = []

    def terms(params, x):
        traced.append(True)
        return {'task': jnp.sum(params['w'] * x), 'hinge': jnp.sum(jnp.maximum(params['w'], 0))}

    doctor = GradientDoctor(terms, task='task', weights={'hinge': 2.0})
    x = jnp.array([3.0, 4.0])
    well = doctor({'w': jnp.array([1.0, -1.0])}, x)
    assert (well.terms['task'].norm, well.terms['hinge'].norm) == (5, 1)
    assert well.terms['hinge'].cosine == pytest.approx(3 / 5)
    assert well.failures == ()
    assert len(traced) == 1
    later = doctor({'w': jnp.array([1.0, 1.0])}, 2 * x)
    assert (later.terms['task'].norm, later.terms['hinge'].value) == (10, 2)
    assert len(traced) == 1
    # Nothing of the hinge is left; the caller may go on all the same.
    dead = doctor({'w': jnp.array([-1.0, -1.0])}, x)
    assert dead.finite
    (failure,) = dead.failures
    assert failure.startswith('hinge (weight 2)')


def test_bfloat16_parameters_are_measured_in_float32():
    params = {'w': jnp.full(4096, 1 / 64, jnp.bfloat16)}
    report = gradient_report(
        lambda p: {'task': jnp.sum(jnp.square(p['w'].astype(jnp.float32)))},
        params,
        task='task',
        weights={},
    )
    assert report.terms['task'].norm == pytest.approx(2.0, rel=1e-3)


def test_sharded_parameters_give_the_same_figures(model, batch):
    mesh = jax.make_mesh((8,), ('fsdp',), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
    alone = {'w': jnp.arange(16.0).reshape(8, 2)}
    terms = lambda p, x: {'task': jnp.sum(jnp.sin(x @ p['w'])), 'l2': jnp.sum(p['w'] ** 2)}
    x = jax.random.normal(jax.random.key(0), (8, 8))
    one, eight = (
        gradient_report(terms, p, x, task='task', weights={'l2': 1.0}).terms['l2']
        for p in (alone, jax.device_put(alone, rows))
    )
    assert eight.norm == pytest.approx(one.norm, rel=1e-5)
    assert eight.cosine == pytest.approx(one.cosine, abs=1e-5)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'task': 'tsk'}, r"task names \['tsk'\], but the terms are"),
        ({'weights': {'kd': 1.0}}, r"weights names \['kd'\]"),
        ({'allow_zero': {'kd': 'why'}}, r"allow_zero names \['kd'\]"),
        ({'reaches': {'task': ['decoder']}}, r"reaches names \['decoder'\], but the groups are"),
        ({'groups': ['encoder']}, r"groups \['encoder'\] match no parameter"),
    ],
)
def test_unknown_names_are_refused(model, batch, changes, message):
    with pytest.raises(ValueError, match=message):
        gradient_report(healthy, model, batch, **{'task': 'task', 'weights': {}} | changes)


def test_a_term_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r'term task has shape \(2,\); expected a scalar'):
        gradient_report(lambda p: {'task': p}, jnp.ones(2), task='task', weights={})
