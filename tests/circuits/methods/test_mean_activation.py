import numpy as np
import toy_study as toy
from method_runs import activations, classes, learned_from, scores_of


def test_it_is_the_mean_over_the_training_problems_of_each_class():
    scores = scores_of('mean_activation')
    a, rows = activations(), learned_from()
    assert scores.shape == (classes().max() + 1, toy.L, toy.F)
    assert scores.dtype == np.float32
    for k in np.unique(classes()):
        chosen = [n for n in rows if classes()[n] == k]
        expected = sum(np.abs(a[n, :, -1]) for n in chosen) / len(chosen)
        np.testing.assert_allclose(scores[k], expected, rtol=1e-5)


def test_a_class_without_training_problems_is_scored_by_all():
    of = np.zeros(len(toy.dataset()), np.int32)
    of[toy.rows().test] = 1
    scores = scores_of('mean_activation', of=of)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)


def test_a_head_counts_with_its_norm():
    of = np.zeros(len(toy.dataset()), np.int32)
    scores = scores_of('mean_activation', of=of, site='head_out')
    heads = np.linalg.norm(activations('head_out')[learned_from()][:, :, -1], axis=-1)
    np.testing.assert_allclose(scores[0], heads.mean(axis=0), rtol=1e-5)
