"""Rows through a jitted function: the same rows on every mesh, each counted once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.inference.rows import class_means, map_rows, mean_rows, rows_per_pass
from cdjax.parallel.mesh import make_mesh, one_device
from cdjax.run.options import TOKENS_PER_PASS

TRACES = []


def affine(constants, rows):
    TRACES.append(rows['tokens'].shape)
    return {'y': rows['tokens'] * constants, 'first': rows['tokens'][:, 0]}


@pytest.fixture(params=['one device', 'no mesh', '8x1', '2x4'])
def mesh(request):
    meshes = {'one device': toy.one_device, 'no mesh': lambda: None}
    return meshes.get(request.param, lambda: make_mesh(*map(int, request.param.split('x'))))()


@pytest.mark.parametrize(
    ('length', 'shape', 'tokens', 'rows'),
    [
        (5, (1, 1), 100, 20),
        (6, (1, 1), 100, 16),
        (70, (1, 1), 4096, 32),  # two of 58 would be nearly twice the rows
        (70, (1, 1), 69, 1),  # one row at least, however long
        (5, (8, 1), 100, 16),  # a multiple of the devices that share the rows
        (5, (2, 4), 100, 20),
        (5, (8, 1), 1, 8),
    ],
)
def test_a_pass_is_sized_by_tokens(length, shape, tokens, rows):
    mesh = make_mesh(*shape, devices=jax.devices()[: shape[0] * shape[1]])
    assert rows_per_pass(64, length, shape[0], tokens) == rows
    TRACES.clear()
    many = {'tokens': np.ones((64, length), np.float32)}
    map_rows(affine, np.float32(2), many, mesh=mesh, tokens_per_pass=tokens)
    assert TRACES == [(rows, length)]


def test_no_pass_is_larger_than_the_rows_there_are():
    TRACES.clear()
    map_rows(affine, np.float32(2), {'tokens': np.ones((3, 5))}, tokens_per_pass=TOKENS_PER_PASS)
    assert TRACES == [(3, 5)]
    with pytest.raises(InputError, match='tokens_per_pass=0: at least 1'):
        rows_per_pass(3, 5, 1, 0)


def test_rows_come_back_in_order_whatever_the_pass(mesh):
    x = np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32)
    for tokens in (15, 37 * 3, 3000):
        out = map_rows(affine, np.float32(2), {'tokens': x}, mesh=mesh, tokens_per_pass=tokens)
        assert isinstance(out['y'], np.ndarray)
        np.testing.assert_array_equal(out['y'], 2 * x)
        np.testing.assert_array_equal(out['first'], x[:, 0])


def test_a_mean_counts_each_row_once(mesh):
    x = np.random.default_rng(0).normal(3, size=(37, 3)).astype(np.float32)
    x[-1] = 1000  # what fills up the last pass, and must not weigh more for it
    out = mean_rows(affine, np.float32(2), {'tokens': x}, mesh=mesh, tokens_per_pass=48)
    np.testing.assert_allclose(out['y'], 2 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(out['first'], x[:, 0].mean(), rtol=1e-5)


def test_one_shape_compiles_once():
    x = np.ones((50, 4), np.float32)
    TRACES.clear()
    for mesh in (None, one_device(), toy.one_device()):
        map_rows(affine, np.float32(2), {'tokens': x}, mesh=mesh, tokens_per_pass=80)
    assert TRACES == [(20, 4)]


def test_half_precision_is_summed_in_float32():
    x = np.full((3000, 1), 1.001, np.float32)
    mean = mean_rows(half, None, {'tokens': x}, tokens_per_pass=1000)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.float32(jnp.bfloat16(1.001)), rtol=1e-6)


def half(_, rows):
    return rows['tokens'].astype(jnp.bfloat16)


def test_the_mesh_is_ambient_while_rows_are_mapped():
    mesh = make_mesh(4, 2)
    seen = []

    def look(_, rows):
        seen.append(dict(jax.sharding.get_abstract_mesh().shape))
        return rows

    map_rows(look, None, {'tokens': np.zeros((8, 1))}, mesh=mesh)
    assert seen == [{'fsdp': 4, 'tensor': 2}]


def test_means_of_classes_count_each_row_once_and_an_empty_class_gets_all(mesh):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(37, 3)).astype(np.float32)
    classes = np.where(rng.random(37) < 0.3, 0, 2)
    for tokens in (15, 3000):
        found = class_means(
            affine, np.float32(2), {'tokens': x}, classes, 3, mesh=mesh, tokens_per_pass=tokens
        )
        for k in (0, 2):
            of_class = 2 * x[classes == k].astype(np.float64)
            np.testing.assert_allclose(found['y'][k], of_class.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(found['first'][k], of_class.mean(axis=0)[0] / 2, atol=1e-5)
        np.testing.assert_allclose(found['y'][1], 2 * x.mean(axis=0), atol=1e-5)
        assert found['y'].dtype == np.float32
