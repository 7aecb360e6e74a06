"""Which parameters stand still where only paired components are trained."""

import jax
import numpy as np
import toy_study as toy

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.components import paired_components
from cdjax.distillation.pairs import Unit
from cdjax.run.checksums import tree_names


def chosen(alignment):
    """Name of each parameter of the student → 1 where it is of a component, in its full shape."""
    model = toy.model(seed=1, student=True)
    masks = paired_components(model, alignment)
    leaves = zip(jax.tree.leaves(model), jax.tree.leaves(masks), strict=True)
    full = [np.broadcast_to(mask, leaf.shape) for leaf, mask in leaves]
    return dict(zip(tree_names(model), full, strict=True))


def test_the_mlp_of_paired_layers():
    for name, mask in chosen(Alignment(((1, 0),))).items():
        if name.startswith('layers.mlp.'):
            assert mask[1].all(), name
            assert not mask[0].any(), name
        else:
            assert not mask.any(), name


def test_the_attention_and_the_whole_block():
    heads, stream = (chosen(Alignment(((0, 0),), site=site)) for site in ('head_out', 'residual'))
    assert heads['layers.attention.q.weight'][0].all()
    assert not heads['layers.mlp.down.weight'].any()
    for name, mask in stream.items():
        layers = name.startswith('layers.')
        assert mask.any() == layers
        assert not layers or (mask[0].all() and not mask[1].any()), name


def test_units_of_the_students_circuits():
    masks = np.zeros((2, toy.L, 16), bool)
    masks[0, 1, 3] = masks[1, 1, 7] = masks[1, 0, 5] = True
    found = chosen(Alignment(((1, 0),), np.array([0, 1]), student_masks=masks))
    units = np.zeros(16)
    units[[3, 7]] = 1
    for name, axis in (('gate', 1), ('up', 1), ('down', 0)):
        mask = found[f'layers.mlp.{name}.weight']
        assert not mask[0].any(), 'not paired'
        np.testing.assert_array_equal(mask[1].max(axis=1 - axis), units)
        np.testing.assert_array_equal(mask[1].min(axis=1 - axis), units)
    of_heads = np.zeros((1, toy.L, 2), bool)
    of_heads[0, 0, 1] = True
    found = chosen(Alignment(((0, 0),), np.zeros(3, int), student_masks=of_heads, site='head_out'))
    np.testing.assert_array_equal(found['layers.attention.o.weight'][0, :, 0], [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(found['layers.attention.q.weight'][0, 0], [0] * 4 + [1] * 4)
    assert found['layers.attention.k.weight'][0].all(), 'shared by the heads'


def test_single_heads_that_are_paired():
    found = chosen(Alignment(((Unit(1, 0), Unit(0, 1)),), site='head_out'))
    of_o, of_q = (found[f'layers.attention.{name}.weight'] for name in 'oq')
    np.testing.assert_array_equal(of_o[1, :, 0], [1] * 4 + [0] * 4)
    np.testing.assert_array_equal(of_q[1, 0], [1] * 4 + [0] * 4)
    assert not of_o[0].any()
    assert not of_q[0].any()
