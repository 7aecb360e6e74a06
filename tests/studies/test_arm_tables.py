"""What a table of arms says before a student is distilled."""

import itertools
import json
import warnings
from types import SimpleNamespace

import pytest
import toy_study as toy
from artefacts import disagreements

from cdjax.distillation import patched_store
from cdjax.distillation.alignment import Alignment
from cdjax.planted import PLANTED_TEACHERS
from cdjax.run.json_file import read_json
from cdjax.studies.arm_tables import ArmTables
from cdjax.studies.arms import PLANTED, ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.inputs import InputsConfig
from cdjax.studies.pipeline import TABLE, Pipeline, PipelineConfig
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.optimizer import OptimizerConfig

ARMS = 'abcde'


def tables(monkeypatch, values, patches=()):
    """A table whose targets are as alike as these values by pair say, from one start."""
    arms = SimpleNamespace(starts=('nothing',), seeds=(0,))
    tables = ArmTables(SimpleNamespace(run=None, arms=arms))
    similarity = {a: {b: values[frozenset((a, b))] for b in ARMS if b != a} for a in ARMS}
    told = {'similarity': similarity, 'contribution': {}, 'patches': list(patches)}
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


def test_arms_whose_patches_ask_for_the_same_are_warned_of(monkeypatch):
    rows = [
        {'arm': arm, 'other': other, 'agreement': 0.9, 'moved': 0.2, 'same': same}
        for arm, other, same in [('f', None, None), ('f', 'g', 0.9), ('f', 'h', 0.5), ('g', 'h', 0)]
    ]
    rows += [rows[0] | {'arm': 'h', 'other': 'i', 'moved': 0}]
    found = tables(monkeypatch, pairs([0.1] * 10), rows)
    with pytest.warns(UserWarning, match='start nothing: most answers .* that a patch') as warned:
        assert found.headroom()['nothing']['patches'] == rows
    (text,) = (str(one.message) for one in warned)
    assert text.endswith(': h and i change none, f and g 0.90')


def test_what_patches_ask_for_is_told_of_the_planted_teacher_and_asked_for_once(
    tmp_path, monkeypatch
):
    config = PipelineConfig(
        InputsConfig('lookup', share=0.06, teacher=str(PLANTED_TEACHERS / 'lookup')),
        DiscoveryConfig(num_classes=4),
        CircuitStudyConfig(methods=()),
        ArmsConfig(
            DistillationConfig(
                OptimizerConfig(2), batch_size=128, teacher_store=str(tmp_path / 'store')
            ),
            Alignment(),
            arms=('kd', 'interchange', 'interchange_random'),
            circuits=PLANTED,
        ),
        layer_pairs='depth',
        rediscover=(),
    )
    pipeline = Pipeline(config, tmp_path / 'run', mesh=toy.one_device(), name=TABLE)
    found = pipeline.headroom()['nothing']
    assert found['headroom'] == {}
    own, random, both = found['patches']
    assert [(row['arm'], row['other']) for row in found['patches']] == [
        ('interchange', None),
        ('interchange_random', None),
        ('interchange', 'interchange_random'),
    ]
    for row in (own, random, both):
        assert 0.3 < row['agreement'] < 0.95
    assert own['moved'] > random['moved'] > 0.1
    assert both['moved'] >= own['moved']
    assert both['same'] < 0.3
    path = tmp_path / 'run' / 'results' / 'headroom' / 'nothing.json'
    assert disagreements('results/headroom/START.json', read_json(path)) == []
    # As it was told when patches were not: it is told again, of answers that lie in the store.
    told = read_json(path)
    path.write_text(json.dumps({key: told[key] for key in told if key != 'patches'}))
    monkeypatch.setattr(patched_store, 'append', None)
    assert pipeline.headroom()['nothing'] == found
