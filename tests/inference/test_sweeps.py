"""Many sets of masks in one program, and circuits as smaller models, against one mask at a time."""

import hlo
import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.errors import InputError
from cdjax.inference import neuron_means, predict, predict_circuits, predict_each, sweeps
from cdjax.inference.predictions import scored_rows
from cdjax.parallel.mesh import make_mesh

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


@pytest.fixture(scope='module')
def fill():
    return neuron_means(toy.model(), toy.dataset(), mesh=toy.one_device())


@pytest.fixture
def two_at_once(monkeypatch):
    """The third set goes through by itself."""
    monkeypatch.setattr(sweeps, '_AT_ONCE', 2)


@pytest.mark.parametrize('ablation', ['mean', 'counterfactual'])
def test_each_set_is_answered_as_if_alone(two_at_once, masks, classes, fill, ablation):
    options = {'classes': classes, 'fill': fill, 'ablation': ablation}
    options |= {'mesh': toy.one_device(), 'tokens_per_pass': 64 * toy.T}
    before = toy.compilations('<lambda>')
    found = predict_each(toy.model(), toy.dataset(), list(masks), **options)
    assert toy.compilations('<lambda>') == before + 1
    assert len(found) == M
    for predictions, one in zip(found, masks, strict=True):
        expected = predict(toy.model(), toy.dataset(), masks=one, **options)
        for got, want in zip(vars(predictions).values(), vars(expected).values(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert len({p.logit_difference.sum() for p in found}) == M


def test_each_set_on_eight_devices(two_at_once, masks, classes, fill):
    mesh = make_mesh(4, 2)
    options = {'classes': classes, 'fill': fill, 'tokens_per_pass': 64 * toy.T}
    many = predict_each(toy.model(mesh), toy.dataset(), list(masks), mesh=mesh, **options)
    few = predict_each(toy.model(), toy.dataset(), list(masks), mesh=toy.one_device(), **options)
    for several, one in zip(many, few, strict=True):
        np.testing.assert_allclose(several.probability, one.probability, rtol=1e-4, atol=1e-6)


def test_what_no_mask_changes_is_computed_once(masks, classes):
    """Of layer 0 the loop holds the down projection alone, and nothing of the counterfactuals."""
    data, B, c = toy.dataset(), 16, toy.teacher_config()
    rows = scored_rows(data) | {'counterfactual_tokens': data.counterfactual_tokens}
    rows = {name: x[:B] for name, x in (rows | {'classes': classes}).items()}
    constants = {'model': toy.model(), 'masks': masks, 'count': np.int32(M)}
    step = jax.jit(sweeps._rows_under_each('neurons'))
    products = hlo.results(hlo.within_loops(step.lower(constants, rows).compile().as_text()), 'dot')
    widths = [shape[1] for _, shape in products if shape[0] == B * toy.T]
    keys = c.num_kv_heads * c.head_dim
    assert sorted(widths) == [keys, keys, c.hidden_size]  # and keys and values of layer 1


@pytest.mark.parametrize('filled', [True, False], ids=['mean', 'zero'])
def test_each_is_what_predict_says_of_it(monkeypatch, masks, classes, fill, filled):
    monkeypatch.setattr('cdjax.inference.sweeps._STEP', 4)  # narrower than the model
    kept = masks.sum(-1).max()
    assert kept <= 24 < toy.F
    options = {'classes': classes, 'mesh': toy.one_device(), 'tokens_per_pass': 64 * toy.T}
    fill = fill if filled else None
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


def test_small_circuits_run_in_narrower_models_where_they_are_several(monkeypatch, classes, fill):
    monkeypatch.setattr(sweeps, '_STEP', 4)
    shape, ran = (9, 3, toy.L, toy.F), []
    sizes = np.array([3, 20, 4, 18, 2, 20, 1, 17, 10])  # the last one alone would be 12 wide
    sizes = sizes[:, None, None, None] - np.array([0, 9, 1])[None, :, None, None]
    masks = np.arange(toy.F) < sizes + np.zeros(shape)
    circuit_rows = sweeps._circuit_rows
    monkeypatch.setattr(sweeps, '_circuit_rows', lambda w: ran.append(w) or circuit_rows(w))
    options = {'fill': fill, 'mesh': toy.one_device(), 'classes': classes}
    options['tokens_per_pass'] = 64 * toy.T
    found = predict_circuits(toy.model(), toy.dataset(), masks, **options)
    assert ran == [4, 4, 24, 24]  # of both classes that have problems
    before = toy.compilations('<lambda>')
    predict_circuits(toy.model(), toy.dataset(), masks[:-1], **options)
    assert toy.compilations('<lambda>') == before, 'other numbers of sets compile nothing'
    for predictions, one in zip(found, masks, strict=True):
        expected = predict(toy.model(), toy.dataset(), masks=one, **options)
        np.testing.assert_allclose(predictions.probability, expected.probability, rtol=1e-4)


@pytest.mark.parametrize(
    ('sizes', 'groups'),
    [
        ([0, 0], [(64, [0, 1])]),
        ([65] * 4 + [193] * 3 + [700], [(128, [0, 1, 2, 3]), (768, [4, 5, 6, 7])]),
        ([1000] * 4, [(1000, [0, 1, 2, 3])]),
        ([9] * 20, [(64, [*range(16)]), (64, [*range(16, 20)])]),
        ([64] * 4 + [129] * 4, [(64, [0, 1, 2, 3]), (192, [4, 5, 6, 7])]),
    ],
)
def test_widths_are_few(sizes, groups):
    masks = np.arange(1000) < np.array(sizes)[:, None, None, None]
    found = [(width, sets.tolist()) for width, sets in sweeps._sets_by_width(masks)]
    assert found == groups


@pytest.mark.parametrize('shape', [(toy.K, toy.L, toy.F), (1, 1, toy.L, toy.F - 1)])
def test_masks_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match=r'binary ones are needed, \[M, K, 2, 32\]'):
        predict_circuits(toy.model(), toy.dataset(), np.ones(shape))


def test_soft_masks_are_refused():
    with pytest.raises(InputError, match='binary ones'):
        predict_circuits(toy.model(), toy.dataset(), np.full((1, 1, toy.L, toy.F), 0.5))


def test_masks_of_a_sweep_are_traced_once():
    traced = []

    def scores(m):
        traced.append(m)
        return {'of': np.ones(5, np.float32) * m}

    found = jax.jit(lambda count: sweeps._for_each(count, scores))(np.int32(M))
    assert len(traced) == 1
    np.testing.assert_array_equal(found['of'][2, : M + 1], [0, 1, 2, 0])
