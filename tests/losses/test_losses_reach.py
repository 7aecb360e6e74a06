"""Every public loss under jit, grad and vmap, at the edges of its domain, and sharded.

Two programs hold all functions: a compilation for each would cost minutes.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxprs import equations
from quick_jit import quick_jit

from cdjax import losses

N, K, L, F, E, V = 16, 3, 2, 3, 24, 5
D = L * F


def total(value):
    """The sum of all floating-point numbers that a loss returns."""
    floating = [x for x in jax.tree.leaves(value) if jnp.issubdtype(x.dtype, jnp.floating)]
    return sum(jnp.sum(x) for x in floating)


def causal(i):
    return losses.causal_discovery_loss(
        i['a'],
        i['p'],
        i['z'],
        i['masks'].reshape(K, L, F),
        full_logits=i['full_logits'],
        circuit_logits=i['circuit_logits'],
        complement_logits=i['complement_logits'],
        target=0.1,
        per_layer=True,
    )


def distill(i):
    memory = losses.RowMemory.empty(K, 4, D, E).push(i['a'], i['b'], i['z'], where=i['where'])
    by_class = losses.ActivationPair(i['a'], i['b'], i['z'], i['masks'], i['b_masks'], memory)
    return losses.distillation_loss(
        i['circuit_logits'],
        i['full_logits'],
        [(i['a'], i['b']), by_class],
        weight=1.0,
        temperature=2.0,
        where=i['where'],
        min_count=5,
    )


# Calls with `i`, the arrays of `inputs`. The weighted sums return each of their terms too, and
# stand for the functions that compute them: a gradient of the sum holds that of each.
CALLS = {
    'similarity_loss': lambda i: losses.similarity_loss(i['a'], i['z'], i['masks']),
    'discovery_loss usage_entropy prior_kl mask_overlap': lambda i: losses.discovery_loss(
        i['a'],
        i['z'],
        i['masks'],
        weights=losses.DiscoveryWeights.authors(),
        target=0.1,
        normalize=True,
    ),
    'causal_discovery_loss faithfulness_kl completeness_loss mutual_information_loss '
    'contrastive_similarity standardize sparsity_loss density_kl': causal,
    'any_size_loss': lambda i: losses.any_size_loss(
        i['full_logits'],
        i['circuit_logits'],
        jnp.eye(4)[jnp.arange(N) % 4],
        probabilities=i['p'],
        without_own_logits=i['complement_logits'],
        without_other_logits=i['circuit_logits'],
        weights=losses.AnySizeWeights(1, 2, 3, 4),
        where=i['where'],
    ),
    'top_k_gate soft_top_k top_k_mask': lambda i: (
        i['b'][:, :D] * losses.top_k_gate(i['a'], 2, temperature=0.25)
    ),
    'membership_scores': lambda i: losses.membership_scores(i['a'].reshape(-1, 4, 1, D)),
    'hard_concrete_gate hard_concrete_open': lambda i: (
        losses.hard_concrete_gate(i['a'], i['b'][:, :D]) + losses.hard_concrete_open(i['a'])
    ),
    'log_uniform_sizes': lambda i: losses.log_uniform_sizes(jax.random.key(0), 4, 1, D) * 1.0,
    'linear_cka': lambda i: losses.linear_cka(i['a'], i['c'], where=i['where']),
    'minibatch_cka hsic': lambda i: losses.minibatch_cka(
        i['a'].reshape(2, 8, D),
        i['b'].reshape(2, 8, E),
        debiased=False,
        where=i['where'].reshape(2, 8),
    ),
    'class_conditional_cka': lambda i: (
        losses.class_conditional_cka(
            i['a'], i['c'], i['z'], x_masks=i['masks'], where=i['where']
        ).values
    ),
    'rsa': lambda i: [
        losses.rsa(
            i['a'],
            i['b'],
            distance=distance,
            centering=centering,
            comparison=comparison,
            where=i['where'],
        )
        for distance, centering, comparison in (
            ('euclidean', None, 'pearson'),
            ('correlation', 'u', 'cosine'),
            ('cosine', 'double', 'pearson'),
            ('sqeuclidean', None, 'spearman'),
        )
    ],
    'procrustes_distance': lambda i: losses.procrustes_distance(i['a'], i['b'], where=i['where']),
    'distillation_loss alignment_loss cka_loss class_conditional_cka_loss': distill,
    'kd_loss': lambda i: losses.kd_loss(
        i['circuit_logits'], i['full_logits'], direction='reverse', where=i['where']
    ),
    'topk_kd_loss': lambda i: losses.topk_kd_loss(
        i['circuit_logits'], losses.TopKLogits.from_logits(i['full_logits'], 2), where=i['where']
    ),
    'cross_entropy': lambda i: losses.cross_entropy(
        i['circuit_logits'], i['labels'], where=i['where']
    ),
    'linear_map_r2': lambda i: losses.linear_map_r2(
        *(i[name] for name in ('a', 'b', 'projection', 'z')),
        student_masks=i['masks'],
        teacher_masks=i['b_masks'],
        where=i['where'],
    )[0],
}


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {
        'a': draw(N, D),
        'b': draw(N, E),
        'c': draw(N, 4),
        'z': np.repeat(np.eye(K, dtype=np.float32), (7, 5, 4), axis=0),
        'p': rng.dirichlet(np.ones(K), N).astype(np.float32),
        'masks': rng.uniform(0.1, 0.9, (K, D)).astype(np.float32),
        'b_masks': rng.uniform(0.1, 0.9, (K, E)).astype(np.float32),
        'full_logits': draw(N, V),
        'circuit_logits': draw(N, V),
        'complement_logits': draw(N, V),
        'projection': draw(D, E),
        'labels': rng.integers(V, size=N),
        'where': np.arange(N) % 8 != 7,
    }


def edges():
    """The inputs at each edge, by name; the first are ordinary."""
    one_hot = np.eye(K, dtype=np.float32)
    rows = ('a', 'b', 'c')
    sure = np.where(np.arange(V) == 1, 1e4, -1e4).astype(np.float32)
    cases = {
        'ordinary': {},
        'zero features': dict.fromkeys(rows, 0.0),
        'constant features': dict(zip(rows, (0.1, -1e6, 3.7), strict=True)),
        'a mean of 30 spreads': {'a': 30 + inputs()['a'], 'b': 30 - inputs()['b']},
        'a row of zeros': {'a': inputs()['a'] * (np.arange(N) > 0)[:, None].astype(np.float32)},
        'zero masks': {'masks': 0.0, 'b_masks': 0.0},
        'full masks': {'masks': 1.0, 'b_masks': 1.0},
        'binary masks': {'masks': np.eye(K, D), 'b_masks': np.eye(K, E)},
        'equal rows within a class': {'a': inputs()['z'] @ inputs()['a'][:K]},
        'large and small features': {'a': inputs()['a'] * 1e9, 'b': inputs()['b'] * 1e-9},
        'all in one class': {'z': one_hot[np.zeros(N, int)], 'p': one_hot[np.zeros(N, int)]},
        'classes of none and one': {'z': one_hot[np.eye(N, dtype=int)[0]]},
        'no class at all': {'z': 0.0},
        'saturated logits': {
            'full_logits': sure[None],
            'circuit_logits': -sure[None],
            'complement_logits': sure[None],
        },
        'equal logits': dict.fromkeys(('full_logits', 'circuit_logits', 'complement_logits'), 0.0),
        'no valid row': {'where': False},
        'three valid rows': {'where': np.arange(N) < 3},
    }
    for name, changes in cases.items():
        case = inputs()
        for key, value in changes.items():
            case[key] = np.broadcast_to(np.asarray(value, case[key].dtype), case[key].shape)
        yield name, case


def evaluate(arrays):
    """The value of every function."""
    return {name: total(call(arrays)) for name, call in CALLS.items()}


@jax.jit  # traced once for all programs of it
def differentiate(arrays):
    """The value of every function, and the gradient of their sum to every input."""
    floating = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def loss(floating):
        values = evaluate(arrays | floating)
        return sum(values.values()), values

    (_, values), gradients = jax.value_and_grad(loss, has_aux=True)(floating)
    return values, gradients


def functions_without_finite_gradient(arrays):
    """Names who is to blame, one compilation for each function: only where something failed."""
    for name, call in CALLS.items():
        loss = lambda floating, call=call: total(call(arrays | floating))
        floating = {key: x for key, x in arrays.items() if x.dtype == np.float32}
        gradients = quick_jit(jax.grad(loss))(floating)
        if not all(np.isfinite(gradient).all() for gradient in gradients.values()):
            yield name


@pytest.fixture(scope='module')
def at_edges():
    """Names of the edges, their inputs, and all values and gradients under vmap."""
    names, cases = zip(*edges(), strict=True)
    stacked = {key: np.stack([case[key] for case in cases]) for key in cases[0]}
    return names, cases, jax.device_get(quick_jit(jax.vmap(differentiate))(stacked))


def test_every_public_function_is_here():
    functions = [name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))]
    reached = [name for names in CALLS for name in names.split()]
    assert sorted([*reached, 'init_projection']) == sorted(functions)


def test_every_product_asks_for_float32():
    # TPUs multiply float32 in bfloat16 by default, and GPUs in TF32; a CPU shows no difference.
    traced = equations(differentiate, inputs())
    found = [equation for equation in traced if equation.primitive.name == 'dot_general']
    assert len(found) > 30
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert all(equation.params['precision'] == highest for equation in found)


def test_values_and_gradients_are_finite_at_every_edge_under_vmap(at_edges):
    names, cases, (values, gradients) = at_edges
    for index, (name, case) in enumerate(zip(names, cases, strict=True)):
        assert not [key for key, value in values.items() if not np.isfinite(value[index])], name
        if not all(np.isfinite(gradient[index]).all() for gradient in gradients.values()):
            pytest.fail(f'{name}: {list(functions_without_finite_gradient(case))}')


def test_rows_sharded_over_eight_devices_give_the_same_values_and_gradients(at_edges):
    names, (case, *_), results = at_edges
    assert names[0] == 'ordinary'
    mesh = jax.make_mesh((8,), ('fsdp',), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])
    rows = lambda array: PartitionSpec(*('fsdp',) * (len(array) == N))
    shardings = {name: NamedSharding(mesh, rows(array)) for name, array in case.items()}
    assert not shardings['a'].is_fully_replicated
    sharded = jax.device_get(quick_jit(differentiate, in_shardings=(shardings,))(case))
    for one, eight, what in zip(results, sharded, ('value', 'gradient'), strict=True):
        for name in one:
            np.testing.assert_allclose(
                eight[name], one[name][0], atol=2e-4, rtol=2e-4, err_msg=f'{what} {name}'
            )


def test_inside_shard_map_each_device_computes_what_it_would_alone(at_edges):
    _, cases, (values, _) = at_edges
    # The first eight edges, one for each device. (Ranks of equal distances, which the edges after
    # them have, are an accident of rounding.)
    stacked = {key: np.stack([case[key] for case in cases[:8]]) for key in cases[0]}
    mesh = jax.make_mesh((8,), ('fsdp',), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])

    @jax.shard_map(mesh=mesh, in_specs=PartitionSpec('fsdp'), out_specs=PartitionSpec('fsdp'))
    def local(stacked):
        one = {key: array[0] for key, array in stacked.items()}
        return jax.tree.map(lambda x: x[None], evaluate(one))

    found = jax.device_get(quick_jit(local)(stacked))
    for name, alone in values.items():
        scale = 1 + np.abs(alone[:8]).max()
        np.testing.assert_allclose(found[name] / scale, alone[:8] / scale, atol=1e-4, err_msg=name)
