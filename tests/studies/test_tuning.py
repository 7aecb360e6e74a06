"""Settings are compared where no evaluation looks, and the first stays unless another is better."""

import dataclasses
import json

import numpy as np
import pytest
import toy_study as toy
from artefacts import disagreements

from cdjax.data import save_tokenizer
from cdjax.data.splits import validation_split
from cdjax.errors import InputError
from cdjax.models import save_huggingface
from cdjax.report.settings import settings_table
from cdjax.run.options import RunOptions
from cdjax.studies import tuning
from cdjax.studies.inputs import InputsConfig
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.objectives import AnySize
from cdjax.training.optimizer import OptimizerConfig

SEARCH = DiscoveryConfig(
    OptimizerConfig(2), 2, AnySize(density=0.25, smallest=0.1), batch_size=16, least_accuracy=0
)


def test_nothing_that_is_held_out_is_looked_at():
    rows, dataset = toy.rows(), toy.dataset()
    inner = validation_split(dataset, rows, part=0.25, seed=0)
    assert set(inner.train) | set(inner.test) == set(rows.train)
    assert not set(dataset.forms[inner.train]) & set(dataset.forms[inner.test])
    forms = len(set(dataset.forms[rows.train]))
    assert len(set(dataset.forms[inner.test])) == round(0.25 * forms)


def points(*only, selective=0.0):
    return [
        {
            'only': x,
            'only_probability': x,
            'selectivity': selective,
            'selectivity_probability': selective,
        }
        for x in only
    ]


def setting(name, *scores, selective=0.0):
    return {
        'name': name,
        'points': [points(score, selective=selective) for score in scores],
        **tuning.summary(list(scores)),
    }


def test_the_first_setting_stays_within_a_standard_error():
    error = tuning.summary([0.5, 0.7])['error']
    assert error == pytest.approx(0.1)
    own, noisy = setting('own', 0.5, 0.5), setting('noisy', 0.5, 0.7)
    assert tuning.chosen([own, noisy]) is own  # .6 ± .1 is not above .5
    better = setting('better', 0.6, 0.62)
    assert tuning.chosen([own, noisy, better]) is better
    # One seed is no final: what was not a finalist is not chosen.
    assert tuning.chosen([own, noisy, setting('lucky', 0.9)]) is own


def test_finalists_are_the_best_and_the_first():
    assert tuning.finalists([0.1, 0.5, 0.2, 0.9, 0.5], 2) == [0, 1, 3]
    assert tuning.finalists([0.9, 0.5], 3) == [0, 1]
    assert tuning.score(points(0.2, 0.4)) == pytest.approx(0.3)


def test_selective_circuits_have_to_work():
    settings = [setting('own', 0.9), setting('split', 0.6, selective=0.3)]
    settings.append(setting('broken', 0.2, selective=0.9))
    found = tuning.most_selective(settings, (0.05,))
    assert (found['name'], found['size'], found['selectivity']) == ('split', 0.05, 0.3)
    assert tuning.most_selective([setting('broken', 0.2)], (0.05,)) is None
    assert tuning.most_selective([setting('one', 0.9, selective=None)], (0.05,)) is None


def test_settings_are_searched_and_told(tmp_path, monkeypatch):
    asked = toy.hire_workers(monkeypatch, tuning)
    save_tokenizer(toy.tokenizer(), tmp_path / 'tokenizer')
    model = toy.random_model(dataclasses.replace(toy.teacher_config(), num_layers=1))
    save_huggingface(model, tmp_path / 'teacher', tokenizer_from=tmp_path / 'tokenizer')
    inputs = InputsConfig(toy.TASK, share=0.5, test=0.25, teacher=str(tmp_path / 'teacher'))
    one = dataclasses.replace(SEARCH, num_classes=1)
    config = tuning.TuningConfig(
        inputs,
        (('own', SEARCH), ('one class', one)),
        sizes=(0.1, 0.5),
        seeds=(0, 1),
        finalists=1,
        problems=20,
    )
    options = RunOptions(check_gradients=False, workers=4)
    run = lambda c: tuning.tune(c, tmp_path / 'run', mesh=toy.one_device(), options=options)
    able = dataclasses.replace(SEARCH, least_accuracy=1.0)
    with pytest.raises(InputError, match='the teacher answers'):
        run(dataclasses.replace(config, settings=(('own', SEARCH), ('able', able))))
    assert not (tmp_path / 'run').exists()
    found = run(config)
    names = [f'setting {at}, seed {seed}' for seed in (0, 1) for at in (0, 1)]
    assert asked == dict.fromkeys(names, 4)
    text = json.loads((tmp_path / 'run' / 'tuning.json').read_text())
    assert disagreements('tuning.json', text) == []
    assert [s['seeds'] for s in found['settings']] == [[0, 1], [0, 1]]
    assert found['problems'] == 20
    own, single = found['settings']
    assert single['points'][0][0]['selectivity'] is None
    assert own['score'][1] == pytest.approx(np.mean([p['only'] for p in own['points'][1]]))
    table = settings_table(found)
    assert f'chosen: {found["chosen"]}' in table
    assert len({line.index('seeds') for line in table.splitlines() if 'seeds' in line}) == 1
    with pytest.raises(InputError, match='holds another run: problems is 20 there'):
        run(dataclasses.replace(config, problems=19))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'settings': (('own', SEARCH),)}, 'nothing to choose from'),
        ({'settings': (('own', SEARCH), ('own', SEARCH))}, "'own' stands there twice"),
        ({'validation': 1.0}, 'validation_share=1.0'),
        ({'seeds': ()}, 'seeds='),
        ({'finalists': 0}, 'finalists=0'),
        ({'sizes': (0.0,)}, 'sizes=0.0'),
    ],
)
def test_what_cannot_be_compared_is_refused(change, said):
    sound = {'inputs': InputsConfig(), 'settings': (('own', SEARCH), ('b', SEARCH))}
    tuning.TuningConfig(**sound)
    with pytest.raises(InputError, match=said):
        tuning.TuningConfig(**sound | change)
