"""What a table of arms says before a student is distilled."""

import itertools
import warnings
from types import SimpleNamespace

import pytest

from cdjax.studies.arm_tables import ArmTables

ARMS = 'abcde'


def tables(monkeypatch, values):
    """A table whose targets are as alike as these values by pair say, from one start."""
    arms = SimpleNamespace(starts=('nothing',), seeds=(0,))
    tables = ArmTables(SimpleNamespace(run=None, arms=arms))
    similarity = {a: {b: values[frozenset((a, b))] for b in ARMS if b != a} for a in ARMS}
    told = {'similarity': similarity, 'contribution': {}}
    monkeypatch.setattr(tables, '_headroom', lambda start, seed: told)
    return tables


def pairs(values):
    return dict(zip(map(frozenset, itertools.combinations(ARMS, 2)), values, strict=True))


def test_one_warning_lists_the_arms_that_can_hardly_be_told_apart(monkeypatch):
    found = tables(monkeypatch, pairs([0.71, 0.72, 0.1, 0.99, 0.2, 0.8, None, 0.75, 0.73, 0.7]))
    with pytest.warns(UserWarning, match='start nothing: .* much alike') as warned:
        assert found.headroom()['nothing']['headroom']['a']['b'] == 0.71
    (text,) = (str(one.message) for one in warned)
    listed = 'a and e 0.99, b and d 0.80, c and d 0.75, c and e 0.73, a and c 0.72, and 1 more'
    assert text.endswith(f': {listed}')


def test_arms_that_can_be_told_apart_are_warned_of_in_nothing(monkeypatch):
    found = tables(monkeypatch, pairs([0.7, None, *[0.1] * 8]))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found.headroom()
