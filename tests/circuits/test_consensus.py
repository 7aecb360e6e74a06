"""Classes that searches agree on: found where they are, and not where there is only a cloud."""

import numpy as np
import pytest
import toy_study as toy

from cdjax.circuits.classes import CLASSES, Sorting
from cdjax.circuits.clusters import stable_clusters
from cdjax.circuits.consensus import consensus_classes


def renamed_with_errors(classes, part, seed):
    rng = np.random.default_rng(seed)
    renamed = rng.permutation(classes.max() + 1)[classes]
    wrong = rng.random(len(classes)) < part
    return np.where(wrong, rng.integers(classes.max() + 1, size=len(classes)), renamed)


def agree(a, b):
    """Whether two classes are equal but for their names."""
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def test_runs_outvote_each_others_errors_whatever_their_names():
    truth = np.random.default_rng(0).integers(4, size=400)
    runs = [renamed_with_errors(truth, 0.1, seed) for seed in range(7)]
    found = consensus_classes(runs)
    assert agree(found.classes, truth)
    assert not any(agree(run, truth) for run in runs)
    assert found.stability > 0.6 > 0.05 > found.chance
    assert found.share.min() >= 3 / 7
    assert 0.85 < found.share.mean() < 0.97, '.9 of the runs are right, and some of the others'


def test_independent_runs_have_no_stable_classes():
    rng = np.random.default_rng(0)
    found = consensus_classes([rng.integers(3, size=300) for _ in range(4)])
    assert found.classes is None
    assert abs(found.stability) < 0.02


def test_the_rule_has_two_sides():
    truth = np.random.default_rng(1).integers(3, size=600)
    runs = [renamed_with_errors(truth, 0.3, seed) for seed in range(4)]
    stability = consensus_classes(runs).stability
    assert 0.2 < stability < 0.5
    assert consensus_classes(runs).classes is None, 'too low'
    assert consensus_classes(runs, least=0.2).classes is not None
    as_stable = [renamed_with_errors(truth, 0.2, seed) for seed in range(4)]
    assert consensus_classes(runs, null=as_stable, least=0.2).classes is None, 'as data without'
    with pytest.raises(ValueError, match='two runs'):
        consensus_classes(runs[:1])


def test_clusters_are_found_and_a_cloud_has_none():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=300)
    centres = rng.normal(size=(3, 20))
    vectors = centres[truth] + 0.3 * rng.normal(size=(300, 20))
    found = stable_clusters(vectors, np.arange(0, 300, 2), 3)
    assert agree(found.classes, truth), 'problems that nothing was fitted to as well'
    cloud = stable_clusters(rng.normal(size=(300, 20)), np.arange(300), 3)
    assert cloud.classes is None
    assert found.chance < found.stability


def test_the_scheme_sorts_by_vectors_or_says_that_there_are_no_classes(caplog):
    data = toy.dataset()
    assert CLASSES['attribution'].assign(Sorting(data, 2)) is None, 'before a model is loaded'
    operators = data.labels['operators']
    rows = np.arange(0, len(data), 2)
    noise = np.random.default_rng(0).normal(size=(len(data), 8))
    sort = lambda vectors: CLASSES['attribution'].assign(
        Sorting(data, 2, rows=rows, vectors=lambda: vectors)
    )
    assert agree(sort(noise + 20 * operators[:, None]), operators)
    assert sort(noise) is None
