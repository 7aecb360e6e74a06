import jax
import numpy as np
import toy_study as toy

from cdjax.circuits.classifier import Encoding
from cdjax.inference.encodings import encode


def test_default_encoding_is_the_embeddings_and_so_cannot_know_the_answer():
    data = toy.dataset()
    encoding = encode(toy.model(), data, Encoding(), tokens_per_pass=64 * toy.T)
    table = np.asarray(toy.model().embed.weight[...])
    np.testing.assert_array_equal(encoding, table[data.tokens].reshape(len(data), -1))
    # At the last position, where an answer would be, all problems look alike.
    d = table.shape[1]
    assert (encoding[:, -d:] == encoding[:1, -d:]).all()


def test_deeper_layers_and_single_positions():
    data, model = toy.dataset(), toy.model()
    encoding = encode(model, data, Encoding(1, (3, -1)))
    full = jax.jit(lambda m, t: m(t, capture=('residual',), logits_at=-1)[1]['residual'][1])
    x_NxTxd = np.asarray(full(model, data.tokens))
    expected = np.concatenate([x_NxTxd[:, 3], x_NxTxd[:, 4]], axis=1)
    np.testing.assert_allclose(encoding, expected, rtol=1e-5, atol=1e-6)
