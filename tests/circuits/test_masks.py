import jax
import numpy as np
import pytest
from scipy.special import erf

from cdjax.circuits.masks import MaskGenerator, binarize, log_ranks, random_masks
from cdjax.errors import InputError


def test_binarize_takes_the_highest_and_of_equals_the_first():
    scores = np.array([[[0.5, 0.9], [0.5, 0.5]], [[0.1, 0.1], [0.1, 0.1]]])
    np.testing.assert_array_equal(
        binarize(scores, 2), [[[True, True], [False, False]], [[True, True], [False, False]]]
    )
    np.testing.assert_array_equal(
        binarize(scores, 3), [[[True, True], [True, False]], [[True, True], [True, False]]]
    )


def test_binarize_is_exact_among_many_ties():
    rng = np.random.default_rng(0)
    # Sigmoids saturate: float32 masks of a long training are full of exact ones and zeros.
    scores = np.round(rng.random((4, 3, 50)), 1).astype(np.float32)
    for size in (1, 7, 75, 149, 150):
        masks = binarize(scores, size)
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks.sum(axis=(1, 2)), size)
        for mask, score in zip(masks, scores, strict=True):
            assert mask.all() or score[mask].min() >= score[~mask].max()


@pytest.mark.parametrize('size', [0, -1, 7])
def test_binarize_refuses_impossible_sizes(size):
    with pytest.raises(InputError, match=f'circuit of {size} neurons.*choose a size from 1 to 6'):
        binarize(np.zeros((2, 2, 3)), size)


def test_random_masks_match_each_layer_of_each_class():
    rng = np.random.default_rng(1)
    masks = rng.random((3, 2, 40)) < np.array([0.1, 0.6])[None, :, None]
    drawn = random_masks(masks, seed=5)
    np.testing.assert_array_equal(drawn.sum(-1), masks.sum(-1))
    np.testing.assert_array_equal(drawn, random_masks(masks, seed=5))
    assert (drawn != random_masks(masks, seed=6)).any()
    assert (drawn[0] != drawn[1]).any()


def test_random_masks_favour_no_neuron():
    masks = np.zeros((1, 1, 10), bool)
    masks[..., :3] = True  # what random masks must not inherit
    rate = np.mean([random_masks(masks, seed=seed)[0, 0] for seed in range(1000)], axis=0)
    np.testing.assert_allclose(rate, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 1000))


def test_mask_generator_is_the_two_layer_network_of_its_docstring(key):
    generator = MaskGenerator(3, 2, 5, key, hidden=4, density=0.2)
    hidden = np.asarray(generator.classes[...], np.float64)
    # JAX's gelu is the tanh approximation, 5e-4 from the exact one.
    gelu = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    expected = gelu @ np.asarray(generator.neurons[...]) + np.log(0.2 / 0.8)
    np.testing.assert_allclose(generator(), expected.reshape(3, 2, 5), atol=3e-3)


def test_initial_masks_have_the_density_asked_for(key):
    masks = jax.nn.sigmoid(MaskGenerator(4, 2, 500, key, hidden=64, density=0.3)())
    np.testing.assert_allclose(np.median(masks), 0.3, atol=0.03)


def test_a_hidden_layer_below_the_classes_is_refused(key):
    with pytest.raises(InputError, match=r'hidden=3.*4 classes.*choose at least 4'):
        MaskGenerator(4, 1, 8, key, hidden=3)


def test_log_ranks_forget_all_but_the_order():
    scores = np.array([[[3.0, -1.0], [3.0, 1e9]], [[0.0, 1.0], [2.0, 3.0]]])
    expected = -np.log([[[2, 4], [3, 1]], [[4, 3], [2, 1]]])
    np.testing.assert_allclose(log_ranks(scores), expected, rtol=1e-6)
