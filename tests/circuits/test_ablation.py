import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.ablation import keep_only


@jax.jit
def captured(model, tokens, edits=None):
    """Neurons after the edit, [L, B, T, F]."""
    return model(tokens, edits=edits, capture=('neurons',), logits_at=-1)[1]['neurons']


@pytest.fixture(scope='module')
def clean():
    return np.asarray(captured(toy.model(), toy.dataset().tokens))


def test_keep_only_leaves_the_circuit_and_fills_the_rest(clean):
    rng = np.random.default_rng(0)
    tokens = toy.dataset().tokens
    B = len(tokens)
    fill = rng.normal(size=(toy.L, 1, toy.T, toy.F)).astype(np.float32)

    masks = (rng.random((B, toy.L, toy.F)) < 0.4).astype(np.float32)
    after = np.asarray(captured(toy.model(), tokens, {'neurons': keep_only(masks, fill)}))
    kept = np.broadcast_to(np.swapaxes(masks, 0, 1)[:, :, None] == 1, after.shape)
    np.testing.assert_array_equal(after[~kept], np.broadcast_to(fill, after.shape)[~kept])
    np.testing.assert_allclose(after[0][kept[0]], clean[0][kept[0]], rtol=1e-5, atol=1e-6)
    # Behind an ablated layer the circuit's own values move, for its input has.
    assert np.abs(after[1] - clean[1])[kept[1]].max() > 0.1

    masks[:, 0] = 1
    after = np.asarray(captured(toy.model(), tokens, {'neurons': keep_only(masks, fill)}))
    np.testing.assert_allclose(after[0], clean[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after[1][kept[1]], clean[1][kept[1]], rtol=1e-5, atol=1e-6)


def test_without_a_fill_the_rest_is_zero():
    masks = np.zeros((1, toy.L, toy.F), np.float32)
    masks[0, 1, 7] = 1
    edit = keep_only(masks, None)
    assert edit.shift is None
    assert edit.center is None
    assert edit.scale.shape == (toy.L, 1, 1, toy.F)
    assert np.asarray(edit.scale).sum() == 1
    assert edit.scale[1, 0, 0, 7] == 1
