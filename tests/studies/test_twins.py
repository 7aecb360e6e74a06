"""The setting in which outputs cannot identify the mechanism, at the smallest size."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import toy_study as toy
from artefacts import disagreements

from cdjax.circuits.circuit import model_hash
from cdjax.data import build_arithmetic_tokenizer, encode_task, save_tokenizer
from cdjax.distillation.alignment import Alignment
from cdjax.errors import InputError
from cdjax.models import LlamaConfig, save_huggingface
from cdjax.parallel.mesh import make_mesh
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.plan import PlanConfig, draw_plan
from cdjax.report.twins import twins_table
from cdjax.run.json_file import read_json
from cdjax.run.options import RunOptions
from cdjax.studies import twins
from cdjax.studies.arms import PLANTED, ArmsConfig
from cdjax.studies.settle.protocol import protocol_hash
from cdjax.studies.twins import Contrast, TwinsProtocol, study_twins, summarise_twins
from cdjax.training.distillation import DistillationConfig
from cdjax.training.optimizer import OptimizerConfig

PROTOCOL = TwinsProtocol(
    teachers=(0,),
    arms=ArmsConfig(
        DistillationConfig(OptimizerConfig(2, 1e-3), batch_size=64),
        Alignment(),
        arms=('kd', 'circuits', 'random_equal'),
        starts=('nothing',),
        seeds=(0, 1),
        max_problems=50,
        circuits=PLANTED,
    ),
    contrasts=(Contrast('circuits', 'kd', primary=True), Contrast('circuits', 'random_equal')),
)


def plant(folder, task, seed):
    """Writes a random teacher with a ground truth, as if circuits had been planted in it."""
    tokenizer = build_arithmetic_tokenizer(30)
    save_tokenizer(tokenizer, folder / 'tokenizer')
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=128,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        max_length=64,
    )
    model = toy.random_model(shape, seed)
    save_huggingface(model, folder / 'model', tokenizer_from=folder / 'tokenizer')
    data = encode_task(task, tokenizer)
    plan = draw_plan(PlanConfig(2, 4, seed), 2, 1, 128)
    GroundTruth(
        plan.shared,
        plan.specific,
        plan.circuits,
        np.ones((1, 128), bool),
        data.labels['table'],
        {'model': model_hash(model), 'data': data.hash},
    ).save(folder / 'model')


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'twins'
    options = RunOptions(check_gradients=False, workers=2)
    run = lambda **more: study_twins(
        PROTOCOL, workdir, mesh=toy.one_device(), options=options, **more
    )
    outlooks = []

    def announce(outlook):
        outlooks.append(outlook)
        if not (workdir / 'teachers').exists():
            raise SystemExit

    with pytest.raises(SystemExit):
        run(announce=announce)
    assert not workdir.exists(), 'nothing is claimed before it is announced'
    return run, workdir, outlooks


def test_students_of_both_teachers_are_asked_beyond_the_share(study, monkeypatch):
    run, workdir, outlooks = study
    assert outlooks[0].steps == 2 * (1000 + 3 * 2 * 2)
    monkeypatch.setattr('cdjax.studies.twins.TeacherStudy', planted_here)
    asked = toy.hire_workers(monkeypatch, twins)
    found = run()
    assert asked == {'lookup_second-0': 2, 'lookup_third-0': 2}
    assert set(found['tables']) == {'lookup_second-0', 'lookup_third-0'}
    for name, table in found['tables'].items():
        assert len(table['runs']) == 3 * 2
        assert np.sum(table['necessary']) == 2 * 6
        content = read_json(workdir / 'results' / f'{name}.json')
        assert disagreements('results/TASK-TEACHER.json', content) == []
        assert not (workdir / 'tables' / name / 'circuits').exists(), 'nothing is searched for'
    written = json.loads(json.dumps({'version': 2, **found}))
    assert disagreements('twins.json', written) == []
    kd = [run for run in found['tables']['lookup_third-0']['runs'] if run['arm'] == 'kd']
    assert {run['seed'] for run in kd} == {0, 1}
    assert found['arms'][0]['own'] == pytest.approx(
        np.mean(
            [r['beyond'] for t in found['tables'].values() for r in t['runs'] if r['arm'] == 'kd']
        )
    )
    monkeypatch.setattr('cdjax.studies.twins.Pipeline', None)
    asked.clear()
    assert run() == found, 'a finished one is read'
    assert asked == {}, 'and no worker is asked for what is there'


class planted_here:
    """In the place of the training of a teacher, which takes a minute."""

    def __init__(self, config, folder, **_):
        self.config, self.folder = config, folder

    def run(self):
        assert self.config.plant.label == 'table'
        plant(self.folder, self.config.inputs.task, self.config.training.seed)


def test_whose_rule_is_followed_by_hand():
    run = lambda arm, seed, own, rival: {
        'arm': arm, 'seed': seed, 'unseen': 1.0, 'beyond': own, 'rival': rival
    }  # fmt: skip
    protocol = dataclasses.replace(PROTOCOL, teachers=(0, 1))

    def table(*kd_and_circuits):
        runs = []
        for seed, (kd, circuits) in enumerate(kd_and_circuits):
            runs += [run('kd', seed, kd, 1 - kd), run('circuits', seed, circuits, 1 - circuits)]
            runs.append(run('random_equal', seed, kd, 1 - kd))
        return {'runs': runs}

    tables = {
        # KD goes by the second operand, whoever teaches.
        'lookup_second-0': table((0.9, 0.9), (0.8, 0.8)),
        'lookup_third-0': table((0.1, 0.5), (0.2, 0.4)),
        'lookup_second-1': table((0.5, 0.9), (0.5, 0.9)),
    }
    found = summarise_twins(protocol, tables)
    assert found['teachers'] == [0], 'the other pair lacks a twin'
    kd, circuits, _ = found['arms']
    assert kd['followed'] == pytest.approx(0)
    # By seed: the mean of .8 and 0, and of .6 and -.2.
    assert circuits['by_teacher'] == pytest.approx([np.mean([0.4, 0.2])])
    assert found['verdicts'][0]['mean'] == pytest.approx(0.3)
    assert [verdict['primary'] for verdict in found['verdicts']] == [True, False]
    both = summarise_twins(protocol, tables | {'lookup_third-1': table((0.5, 0.9), (0.5, 0.9))})
    assert both['teachers'] == [0, 1]
    assert both['verdicts'][0]['mean'] == pytest.approx((0.3 + 0.8) / 2)
    assert both['verdicts'][0]['verdict'] == 'supported'
    # Student's over two pairs, .3 and .8: 12.706 standard errors of .25. Of one pair there is none.
    half = 12.7062 * 0.25
    assert both['verdicts'][0]['t_interval'] == pytest.approx((0.55 - half, 0.55 + half), rel=1e-4)
    assert found['verdicts'][0]['t_interval'] is found['arms'][1]['t_interval'] is None
    text = twins_table(both)
    assert '[−2.63, 3.73]' in text
    assert 'Student’s t over 2\u00a0pairs is wider' in text
    assert 't of 1' not in twins_table(found)


def test_the_protocol_that_runs_go_by_stays_what_it_is():
    assert protocol_hash(TwinsProtocol()) == 'ab59bb6fadcf290d'


def test_a_table_that_there_is_not(tmp_path):
    with pytest.raises(InputError, match='only=lookup_fourth-0: choose from lookup_second-0'):
        study_twins(PROTOCOL, tmp_path / 'run', only=['lookup_fourth-0'])


def test_workers_are_refused_where_one_run_has_all_devices(tmp_path):
    both = make_mesh(devices=jax.devices()[:2])
    with pytest.raises(InputError, match='workers=3 share out the CPU cores'):
        study_twins(PROTOCOL, tmp_path / 'run', mesh=both, options=RunOptions(workers=3))
    assert not (tmp_path / 'run').exists()
