"""Circuits as smaller models, against the whole model with the rest ablated by an edit."""

import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.inference import neuron_means, predict, predict_circuits

pytestmark = pytest.mark.usefixtures('quick_compilation')

M = 3


@pytest.fixture(scope='module')
def masks():
    """Of different sizes; in one circuit a layer is empty."""
    shape = (toy.K, toy.L, toy.F)
    masks = np.stack([np.random.default_rng(m).random(shape) < 0.2 * (m + 1) for m in range(M)])
    masks[0, 1, 0] = False
    return masks


@pytest.fixture(scope='module')
def classes():
    """Of different sizes, one of them empty."""
    return np.arange(len(toy.dataset())) % 4 % 2 * 2


@pytest.mark.parametrize('filled', [True, False], ids=['mean', 'zero'])
def test_each_is_what_predict_says_of_it(monkeypatch, masks, classes, filled):
    monkeypatch.setattr('cdjax.inference.sweeps._STEP', 4)  # narrower than the model
    kept = masks.sum(-1).max()
    assert kept <= 24 < toy.F
    options = {'classes': classes, 'mesh': toy.one_device(), 'tokens_per_pass': 64 * toy.T}
    fill = neuron_means(toy.model(), toy.dataset()) if filled else None
    before = toy.compilations('<lambda>')
    found = predict_circuits(toy.model(), toy.dataset(), masks, fill=fill, **options)
    assert len(found) == M
    assert toy.compilations('<lambda>') == before + 1  # of all masks and classes
    for predictions, one in zip(found, masks, strict=True):
        ablation = 'mean' if filled else 'zero'
        expected = predict(
            toy.model(), toy.dataset(), masks=one, fill=fill, ablation=ablation, **options
        )
        np.testing.assert_array_equal(predictions.correct, expected.correct)
        np.testing.assert_allclose(
            predictions.logit_difference, expected.logit_difference, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(predictions.probability, expected.probability, rtol=1e-4)


@pytest.mark.parametrize('shape', [(toy.K, toy.L, toy.F), (1, 1, toy.L, toy.F - 1)])
def test_masks_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match=r'binary ones are needed, \[M, K, 2, 32\]'):
        predict_circuits(toy.model(), toy.dataset(), np.ones(shape))


def test_soft_masks_are_refused():
    with pytest.raises(InputError, match='binary ones'):
        predict_circuits(toy.model(), toy.dataset(), np.full((1, 1, toy.L, toy.F), 0.5))
