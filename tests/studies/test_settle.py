"""The protocols at the smallest size: what is tested is their stages, not what they find."""

import ast
import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import toy_study as toy
from artefacts import disagreements
from etils import epath
from forks import ROOT

from cdjax.circuits.circuit import Circuit
from cdjax.errors import InputError
from cdjax.evaluation.living import dead_share, living_neurons
from cdjax.inference.means import neuron_deviations
from cdjax.parallel.mesh import make_mesh
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.plan import PlanConfig
from cdjax.planted.training import PlantConfig
from cdjax.report.verdicts import curves_table
from cdjax.run.options import RunOptions
from cdjax.studies import settle as settle_package
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.run import Run
from cdjax.studies.settle import (
    PROTOCOLS,
    TITLES,
    ComparisonProtocol,
    PlantedProtocol,
    comparison,
    measure,
    planted,
    protocol,
    settle,
)
from cdjax.studies.settle.comparison import compare
from cdjax.studies.settle.protocol import LOOKUP_TEACHER, Claim, protocol_hash
from cdjax.studies.teacher import TeacherConfig, TeacherShape
from cdjax.studies.twins import TwinsProtocol
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.objectives import AnySize
from cdjax.training.optimizer import OptimizerConfig

OPTIONS = RunOptions(check_gradients=False)
DISCOVERY = DiscoveryConfig(
    OptimizerConfig(2), 2, AnySize(density=0.25, smallest=0.1), batch_size=16, least_accuracy=0
)
TEACHER = TeacherConfig(
    InputsConfig(toy.TASK, share=0.5, test=0.25),
    TeacherShape(8, 16, 1, 2, 1, toy.MAX_NUMBER),
    LanguageModelConfig(OptimizerConfig(2), batch_size=16),
    plant=PlantConfig(plan=PlanConfig(2, 3)),
)
PLANTED = PlantedProtocol(TEACHER, (0,), (0,), DISCOVERY, (0,), problems=20)
ONE, WIDE = 1 / 16, 0.5  # sizes of a comparison


@pytest.fixture(scope='module')
def settled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'settle'
    options = dataclasses.replace(OPTIONS, workers=3)
    with pytest.MonkeyPatch.context() as patch:
        asked = toy.hire_workers(patch, planted)
        results = settle(PLANTED, workdir, mesh=toy.one_device(), options=options)
    assert asked == {'planted-0': 3, 'null-0': 3}
    return workdir, results


def test_an_untrained_teacher_passes_no_gate(settled):
    workdir, results = settled
    gates = results['gates']
    assert not gates['passed']
    assert [v['key'] for v in gates['verdicts']] == [g.key for g in PLANTED.gates] + ['no_classes']
    assert results['comparison'] is None
    assert [len(runs) for runs in gates['planted']] == [1]
    assert {v['verdict'] for v in gates['verdicts']} <= {'refuted', 'underpowered'}
    text = json.loads((workdir / 'settled.json').read_text())
    assert disagreements('settled.json', text) == []
    for name in ('planted-0-0', 'null-0-0'):
        text = json.loads((workdir / 'results' / f'{name}.json').read_text())
        assert disagreements('results/KIND-TEACHER-SEED.json', text) == []


def test_null_teachers_that_need_their_neurons_are_judged_alone(tmp_path):
    needed = protocol('null', InputsConfig()).needed
    null = dataclasses.replace(PLANTED, teachers=(), gates=(), null_shared=2, needed=needed)
    gates = settle(null, tmp_path / 'run', mesh=toy.one_device(), options=OPTIONS)['gates']
    assert [verdict['key'] for verdict in gates['verdicts']] == ['no_classes', 'none']
    assert gates['planted'] == []
    ((found,),) = gates['null']
    assert gates['verdicts'][1]['mean'] == found['none']
    truth = GroundTruth.load(tmp_path / 'run' / 'teachers' / 'null-0' / 'model')
    assert truth.plan.one_circuit
    assert truth.plan.shared.sum() == 2


def _comparison(workdir):
    """A comparison in the planted teacher of a run of the gates."""
    teacher = str(workdir / 'teachers' / 'planted-0' / 'model')
    return ComparisonProtocol(
        dataclasses.replace(TEACHER.inputs, teacher=teacher),
        PLANTED,
        DISCOVERY,
        trained=('one_mask',),
        attribution=('mean_activation', 'deviation'),
        ablations=(('mean', 0.0),),
        seeds=(0,),
        sizes=(ONE, WIDE),
        claims=(
            Claim('a', 'one_mask', 'attribution', 0.0, (WIDE,)),
            Claim('b', 'learned', 'union', 0.0, (ONE, WIDE)),
            Claim('c', 'operator_classes', 'one_mask', 0.0, (ONE,)),
        ),
        problems=20,
    )


def test_workers_are_asked_for_what_is_not_there_yet(settled, tmp_path, monkeypatch):
    workdir, results = settled
    asked = toy.hire_workers(monkeypatch, planted)
    options = dataclasses.replace(OPTIONS, workers=3)
    assert settle(PLANTED, workdir, mesh=toy.one_device(), options=options) == results
    assert asked == {}
    both = make_mesh(devices=jax.devices()[:2])
    with pytest.raises(InputError, match='workers=3 share out the CPU cores'):
        settle(PLANTED, tmp_path / 'other', mesh=both, options=options)
    assert not (tmp_path / 'other').exists()


def test_the_ground_truth_lies_beside_the_teacher(settled):
    workdir, _ = settled
    folder = workdir / 'teachers' / 'planted-0' / 'model'
    assert (
        disagreements('ground_truth.json', json.loads((folder / 'ground_truth.json').read_text()))
        == []
    )
    truth = GroundTruth.load(folder)
    assert not (truth.necessary & ~(truth.plan.circuits & truth.living)).any()
    np.testing.assert_array_equal(truth.assignments, toy.dataset().labels['operators'])
    null = GroundTruth.load(workdir / 'teachers' / 'null-0' / 'model')
    assert null.num_classes == 1
    assert not null.necessary.any()


def test_folders_of_before_there_were_other_null_teachers_are_gone_on_with():
    planted, embedded = (protocol(name, InputsConfig()).facts() for name in ('planted', 'embedded'))
    assert planted == embedded['gates']
    assert planted['nulls'] == (0, 1, 2)
    assert 'null_shared' not in planted
    assert protocol('null', InputsConfig()).facts()['null_shared'] == 24


def test_every_teacher_is_a_draw_of_its_own():
    one, two = PLANTED.planted(3), PLANTED.null(3)
    assert one.training.seed == two.training.seed == one.plant.plan.seed == 3
    assert (one.plant.plan.shared, one.plant.plan.specific) == (2, 3)
    assert (two.plant.plan.shared, two.plant.plan.specific) == (0, 0)
    assert one.training.optimizer == TEACHER.training.optimizer


def test_what_is_done_is_read_and_another_protocol_is_refused(settled):
    workdir, results = settled
    told = []
    again = settle(PLANTED, workdir, mesh=toy.one_device(), options=OPTIONS, announce=told.append)
    assert again == results
    names = ['train teacher: planted-0', 'find circuits: planted-0-0']
    names += [name.replace('planted', 'null') for name in names]
    assert [(stage.name, stage.done) for stage in told[0].stages] == [(n, True) for n in names]
    other = dataclasses.replace(PLANTED, problems=21)
    assert protocol_hash(other) != protocol_hash(PLANTED) == results['protocol']
    with pytest.raises(InputError, match='holds another run: problems is 20 there and 21 here'):
        settle(other, workdir, mesh=toy.one_device(), options=OPTIONS)


def test_gates_of_another_folder_are_taken_if_they_are_of_this_protocol(settled, tmp_path):
    workdir, results = settled
    run = lambda protocol, **how: settle(
        protocol, tmp_path / 'run', mesh=toy.one_device(), options=OPTIONS, **how
    )
    compared, told = _comparison(workdir), []
    found = run(compared, gates=workdir, announce=told.append)
    assert found['gates'] == results['gates']
    assert found['comparison'] is None  # they are not passed
    assert told[0].stages == ()
    assert not (tmp_path / 'run' / 'gates').exists()
    other = dataclasses.replace(compared, gates=dataclasses.replace(PLANTED, problems=21))
    with pytest.raises(InputError, match='has the gates of protocol'):
        run(other, gates=workdir)
    with pytest.raises(InputError, match='holds no settled'):
        run(compared, gates=tmp_path)
    with pytest.raises(InputError, match='holds another run: stop_at_gates is true there'):
        run(compared, gates=workdir, stop_at_gates=False)
    with pytest.raises(InputError, match='are the gates themselves'):
        run(PLANTED, gates=workdir)


def test_who_asks_for_it_gets_a_comparison_behind_gates_that_failed(settled, tmp_path, monkeypatch):
    workdir, _ = settled
    compared = _comparison(workdir)
    monkeypatch.setattr('cdjax.studies.settle.compare', lambda *_: {'mean': {'verdicts': []}})
    settings = {'mesh': toy.one_device(), 'options': OPTIONS, 'gates': workdir}
    found = settle(compared, tmp_path / 'run', stop_at_gates=False, **settings)
    assert not found['gates']['passed']
    assert found['comparison'] == {'mean': {'verdicts': []}}


def test_a_teacher_without_an_answer_is_refused_before_the_gates(settled, tmp_path):
    compared = dataclasses.replace(
        _comparison(settled[0]), discovery=dataclasses.replace(DISCOVERY, least_accuracy=0.9)
    )
    with pytest.raises(InputError, match=r'the teacher answers .* searched for from 90\.0% on'):
        settle(compared, tmp_path / 'run', mesh=toy.one_device(), options=OPTIONS)
    assert not (tmp_path / 'run').exists()


def test_protocols_leave_free_what_they_say():
    assert isinstance(protocol('planted', InputsConfig()), PlantedProtocol)
    assert protocol('embedded', InputsConfig()) == ComparisonProtocol()
    llama = protocol('llama', InputsConfig(teacher='x'))
    assert llama == ComparisonProtocol(InputsConfig(teacher='x'))
    with pytest.raises(InputError, match='teacher=x: protocol=embedded has its teacher and its'):
        protocol('embedded', InputsConfig(teacher='x'))
    all_the_same = protocol('llama', InputsConfig(teacher='x'), least_accuracy=0.0)
    assert all_the_same.discovery == dataclasses.replace(llama.discovery, least_accuracy=0.0)
    assert dataclasses.replace(all_the_same, discovery=llama.discovery) == llama
    with pytest.raises(InputError, match=r'least_accuracy=0\.0: protocol=embedded has its teacher'):
        protocol('embedded', InputsConfig(), least_accuracy=0.0)
    with pytest.raises(InputError, match='protocol=llama needs a checkpoint'):
        protocol('llama', InputsConfig())
    with pytest.raises(InputError, match='protocol=all: choose from planted, null, embedded, l'):
        protocol('all', InputsConfig())
    assert PROTOCOLS == ('planted', 'null', 'embedded', 'llama')


def test_a_reduced_protocol_is_another_one():
    whole, fewer = (protocol('embedded', InputsConfig(), seeds) for seeds in ((), (2, 0)))
    assert fewer == dataclasses.replace(whole, seeds=(2, 0))
    assert protocol_hash(fewer) != protocol_hash(whole)
    assert protocol_hash(fewer.gates) == protocol_hash(whole.gates)
    for seeds in ((0, 7), (0, 0), whole.seeds):
        with pytest.raises(InputError, match='name some of 0,1,2,3,4, each of them once'):
            protocol('embedded', InputsConfig(), seeds)
    with pytest.raises(InputError, match='seeds=0: only comparisons are reduced'):
        protocol('planted', InputsConfig(), (0,))


def test_a_search_that_has_passed_the_gates_is_compared(settled, tmp_path, monkeypatch):
    """From gates of another folder through trainings and rankings to verdicts, nothing replaced."""
    gates, results = settled
    passed = json.loads((gates / 'settled.json').read_text())
    passed['gates']['passed'] = True
    (tmp_path / 'gates').mkdir()
    (tmp_path / 'gates' / 'settled.json').write_text(json.dumps(passed))
    asked = toy.hire_workers(monkeypatch, comparison)
    compared, workdir, told = _comparison(gates), epath.Path(tmp_path / 'run'), []
    settings = {'gates': tmp_path / 'gates', 'mesh': toy.one_device(), 'announce': told.append}
    options = dataclasses.replace(OPTIONS, workers=2)
    settled_ = settle(compared, workdir, options=options, **settings)
    assert asked == {'mean-0': 2, 'mean-attribution': 2}
    assert settled_['gates'] == results['gates'] | {'passed': True}
    again = settle(compared, workdir, options=OPTIONS, **settings)
    assert again == settled_
    names = ['attribute: mean', 'learn masks: mean-0']
    assert [[(s.name, s.done) for s in one.stages] for one in told] == [
        [(name, done) for name in names] for done in (False, True)
    ]
    text = json.loads((workdir / 'settled.json').read_text())
    assert disagreements('settled.json', text) == []
    found, one, wide = settled_['comparison']['mean'], ONE, WIDE
    assert text['comparison']['mean'] == found
    stored = json.loads((workdir / 'results' / 'mean-0.json').read_text())
    assert disagreements('results/ABLATION-SEED.json', stored) == []
    # What operator classes keep was not measured, so nothing is said of it.
    assert [v['key'] for v in found['verdicts']] == [
        f'one_mask-attribution-{wide}',
        f'learned-union-{one}',
        f'learned-union-{wide}',
    ]
    right = lambda arms, arm, at: np.array(list(arms[arm]['correct'][at]), int)
    arms = stored['arms']
    expected = (right(arms, 'learned', 1) - right(arms, 'union', 1)).mean()
    assert found['verdicts'][2]['mean'] == pytest.approx(expected)
    best = max(found['curves'][key]['accuracy'][1] for key in ('mean_activation', 'deviation'))
    assert found['verdicts'][0]['mean'] == pytest.approx(right(arms, 'one_mask', 1).mean() - best)
    assert found['curves']['learned']['probability'] == arms['learned']['probability']
    assert arms['union']['sizes'][0] in (1, 2)
    run = Run(Inputs(compared.inputs), workdir, toy.one_device(), OPTIONS)
    circuit = Circuit.load(run.places.circuits('mean-0'))
    masks = [circuit.at_size(n).masks for n in (1, 8)]
    learned = run.inputs.dataset[run.inputs.split.train]
    living = living_neurons(neuron_deviations(run.teacher, learned, circuit.fill))
    curves = {'learned': found['curves']['learned']}
    assert curves['learned']['dead'] == [dead_share(m, living) for m in masks]
    curves['union'] = curves['learned'] | {'dead': [0.25, 0.5], 'rank': -0.5}
    text = curves_table('T', compared.sizes, curves, {'learned': 1.5}, TITLES)
    first, second = (line.replace('\u00a0', '').split() for line in text.splitlines()[2:4])
    kept = [f'{100 * x:.0f}%' for x in curves['learned']['accuracy']]
    assert first[-5:-3] == second[-5:-3] == kept
    assert (first[-1], second[-3:]) == ('1.5', ['50%', '−0.50', '–'])
    assert ' '.join(second[:-5]) == TITLES['union']
    # What an earlier version stored lacks them, and is measured anew.
    for arm in stored['arms'].values():
        del arm['rank']
    (workdir / 'results' / 'mean-0.json').write_text(json.dumps(stored))
    assert compare(compared, run)['mean']['curves'] == found['curves']


def test_the_recipe_trains_the_teacher_of_the_protocol():
    lines = (ROOT / 'experiments' / 'recipes' / 'planted_lookup.flags').read_text().splitlines()
    recipe = dict(line.removeprefix('--').split('=') for line in lines if line.startswith('--'))
    training, plan = LOOKUP_TEACHER.training, LOOKUP_TEACHER.plant.plan
    shape = vars(LOOKUP_TEACHER.shape)
    told = {
        **shape,
        **vars(training.optimizer),
        'batch_size': training.batch_size,
        'evaluate_every': LOOKUP_TEACHER.evaluate_every,
        'plant_shared': plan.shared,
        'plant_specific': plan.specific,
    }
    numbers = {k: float(v) for k, v in recipe.items() if k in told}
    assert numbers == {k: told[k] for k in numbers}
    assert numbers.keys() >= shape.keys() | {'steps', 'learning_rate', 'weight_decay'}
    assert recipe['task'] == LOOKUP_TEACHER.inputs.task
    assert recipe['plant_classes'] == LOOKUP_TEACHER.plant.label


def test_the_program_of_the_page_measures_a_teacher_that_is_there(
    settled, tmp_path, monkeypatch, capsys
):
    teacher = str(settled[0] / 'teachers' / 'null-0' / 'model')

    def small_inputs(config):
        assert Inputs(config).teacher_config.num_layers > 1  # the one of the page is there, too
        return Inputs(dataclasses.replace(TEACHER.inputs, teacher=teacher))

    page = (ROOT / 'docs' / 'planted.md').read_text()
    (program,) = re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL)
    names = {}
    small = dataclasses.replace(PLANTED, problems=20, seeds=(0,))
    monkeypatch.setattr(settle_package, 'PlantedProtocol', lambda: small)
    monkeypatch.setattr('cdjax.studies.Inputs', small_inputs)
    (tmp_path / 'cdjax').symlink_to(ROOT / 'cdjax')
    monkeypatch.chdir(tmp_path)
    exec(compile(program, 'planted.md', 'exec'), names)
    told = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert told == measure(names['run'], names['discover'], 0, 20)
    assert 0 <= told['own'] <= 1
    assert 'auroc' not in told, 'nothing is planted in this teacher'


def test_pages_name_the_hashes_of_the_protocols():
    """A protocol that changes is another one: its published table has to be made again."""
    planted, results = (
        (ROOT / 'docs' / f'{page}.md').read_text() for page in ('planted', 'results')
    )
    for name in ('planted', 'null'):
        assert protocol_hash(protocol(name, InputsConfig())) in planted
    assert protocol_hash(protocol('embedded', InputsConfig())) in results
    assert protocol_hash(TwinsProtocol()) in results
