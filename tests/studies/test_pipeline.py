"""The whole mission at its smallest: every stage for three steps, then again from disk."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import toy_study as toy
import transformers
from artefacts import disagreements
from browser import DESK, PHONE, check_whole, chromium, open_page
from etils import epath
from toy_pipeline import METHODS, make_config, make_teacher, without_students

from cdjax import studies
from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.circuits.methods import learned_masks
from cdjax.errors import InputError
from cdjax.models import load_huggingface
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.recovery import recovery
from cdjax.report.write import write_report
from cdjax.run.folder import VERSION
from cdjax.run.options import RunOptions
from cdjax.studies.circuits import unseen_rows
from cdjax.studies.extra import STUDIES
from cdjax.studies.extra.number_of_classes import number_of_classes
from cdjax.studies.inputs import Inputs
from cdjax.studies.pipeline import Pipeline
from cdjax.training import discovery_step, distillation, language_model
from cdjax.training.diagnostics import GradientReport
from cdjax.training.objectives import AnySize

CLASSES = number_of_classes('two_numbers', counts=(1, 2), seeds=(0,))
BEFORE = []  # what was told before the run, and whether its folder was there


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp('checkpoints'))


@pytest.fixture(scope='module')
def finished(teacher, tmp_path_factory):
    workdir = epath.Path(tmp_path_factory.mktemp('runs')) / 'run'
    with pytest.MonkeyPatch.context() as patch:
        # The doctor compiles each step once more, and has tests of its own.
        no_doctor = lambda *_, **__: lambda *_: GradientReport('loss', (), {})
        for module in (discovery_step, distillation, language_model):
            patch.setattr(module, 'GradientDoctor', no_doctor)
        options = RunOptions(checkpoint_every=2)
        STUDIES.add(CLASSES)
        pipeline = Pipeline(
            make_config(teacher, studies=(CLASSES.key,)),
            workdir,
            mesh=toy.one_device(),
            options=options,
            announce=lambda outlook: BEFORE.append((outlook, workdir.exists())),
        )
        yield pipeline, pipeline.run()
    STUDIES.remove(CLASSES.key)


@pytest.fixture(scope='module')
def report(finished):
    """The page of the run, made once: its figures take longer than all that looks at them."""
    pipeline, results = finished
    return write_report(pipeline.workdir, results)


def test_the_artefacts_are_there(finished):
    pipeline, results = finished
    workdir = pipeline.workdir
    assert json.loads((workdir / 'results.json').read_text()) == {'version': VERSION, **results}
    assert json.loads((workdir / 'config.json').read_text())['name'] == 'pipeline'
    rankings = ('method_one_mask', 'method_mean_activation')
    for name in ('teacher', *rankings, 'student_nothing-circuits-0'):
        assert Circuit.load(workdir / 'circuits' / name).size in (4, 2)
    for name in ('teacher', 'student'):
        assert Circuit.load(workdir / 'circuits' / 'joint_partial_0' / name).num_classes == 2
    for stage in ('discover/teacher', 'distill/partial-kd-0', 'head_start/0'):
        assert (workdir / 'stages' / stage / 'metrics.jsonl').exists()


def test_every_file_is_as_its_page_says(finished):
    """docs/artefacts.md against what a run wrote: no field more or less, each of its type."""
    workdir = Path(finished[0].workdir)
    sections = {
        'config.json': ['config.json'],
        'provenance.json': ['provenance.json'],
        'results.json': ['results.json'],
        'results/circuits.json': ['results/circuits.json'],
        'results/arms/START-ARM-SEED.json': sorted(workdir.glob('results/arms/*')),
        'results/start_START.json': ['results/start_partial.json'],
        'results/rediscovery/START-ARM-SEED.json': sorted(workdir.glob('results/rediscovery/*')),
        'results/neurons.json': ['results/neurons.json'],
        'results/problems.json': ['results/problems.json'],
        'results/layer_similarity.json': ['results/layer_similarity.json'],
        'circuits/NAME.json': sorted(workdir.glob('circuits/**/*.json')),
        'training_data.json': sorted(workdir.glob('student*/**/training_data.json')),
    }
    for section, files in sections.items():
        assert files, section
        for file in files:
            content = json.loads((workdir / file).read_text())
            assert disagreements(section, content) == [], file
    for file in sorted(workdir.rglob('metrics.jsonl')):
        for line in file.read_text().splitlines():
            assert disagreements('metrics.jsonl', json.loads(line)) == [], file


def test_every_training_heeds_the_options(finished):
    folders = sorted((finished[0].workdir / 'stages').glob('*/*'))
    kinds = {folder.parent.name for folder in folders}
    assert kinds == {'methods', 'discover', 'distill', 'head_start', 'rediscover', CLASSES.key}
    for folder in folders:
        kept = sorted(int(path.name) for path in (folder / 'checkpoints').iterdir())
        assert kept == [2, 3], folder


def test_what_was_announced_is_what_was_run(finished):
    pipeline, _ = finished
    ((before, there),) = BEFORE
    assert not there
    assert before.done == 0
    config = json.loads((pipeline.workdir / 'config.json').read_text())
    assert config == {'version': VERSION, 'name': 'pipeline', **before.facts}
    after = []
    Pipeline(pipeline.config, pipeline.workdir, mesh=toy.one_device(), announce=after.append)
    assert [stage.name for stage in after[0].stages] == [stage.name for stage in before.stages]
    assert all(stage.done for stage in after[0].stages)
    assert after[0].left == 0 < before.left == before.steps
    folders = [
        folder
        for folder in (pipeline.workdir / 'stages').glob('*/*')
        if folder.parent.name != CLASSES.key
    ]
    trained = [stage for stage in after[0].stages if stage.steps]
    assert len(trained) == len(folders)
    assert {stage.reached for stage in trained} == {3}
    assert min(stage.memory for stage in trained) > 0
    assert [stage.name for stage in before.stages if stage.steps is None] == [
        f'study: {CLASSES.title}'
    ]


def test_a_study_of_its_own(finished):
    _, results = finished
    found = results['studies'][CLASSES.key]
    assert np.shape(found['only']) == (2, 1, 2)
    assert [bits[0] == 0 for bits in found['bits']] == [True, False]
    # All neurons are the whole model, whatever the classes.
    assert [seeds[0][-1] for seeds in found['only']] == [found['accuracy']] * 2
    section = CLASSES.present(found)
    assert [row[0] for row in section.tables[0].rows] == ['1', '2']
    assert section.tables[0].header[1:3] == ['25\u00a0%', '100\u00a0%']


def test_the_results_are_consistent(finished):
    _, results = finished
    study = results['circuits']
    # Those asked for, and of MIB's .2 and .5; of 16 neurons its smaller ones are 1 and 2.
    assert study['sizes'] == [1, 2, 3, 4, 8, 16]
    assert study['curves'].keys() == {'learned', *METHODS}
    for curve in study['curves'].values():
        # All neurons are the whole model, whichever way they are chosen.
        assert curve[-1]['only'] == study['accuracy']
        assert curve[-1]['without'] == study['accuracy_without_neurons']
        assert curve[-1]['only_probability'] == study['probability']
    assert study['areas'].keys() == study['curves'].keys()
    assert study['other_ablations'].keys() == {'overall_mean'}
    assert study['other_ablations']['overall_mean']['curves'].keys() == study['curves'].keys()
    assert study['rank_correlation'].keys() == {'learned', 'one_mask', 'mean_activation'}
    of_classes = study['selectivity']
    assert len(of_classes['matrix']) == 2
    # With only its own circuit each problem is what the curve counts.
    own = np.diag(np.array(of_classes['only_matrix'], float))
    at_own_size = study['curves']['learned'][study['sizes'].index(study['size'])]
    assert np.average(own, weights=of_classes['counts']) == pytest.approx(at_own_size['only'])
    assert results['data']['problems'] == len(toy.dataset())
    assert results['data']['train'] + results['data']['test'] == len(toy.dataset())

    nothing, partial = results['starts']['nothing'], results['starts']['partial']
    assert nothing['first'] is None
    assert len(partial['first']['unseen']) == 1
    for start in (nothing, partial):
        kd, circuits = start['runs']
        assert [row['arm'] for row in start['table']] == ['kd', 'circuits']
        assert start['table'][1]['gain'] == pytest.approx(circuits['unseen'] - kd['unseen'])
        assert [step for step, _ in kd['curve']] == [2, 3]
        assert all(loss[2] == 0 for loss in kd['losses'])
        assert all(loss[2] > 0 for loss in circuits['losses'])
    assert results['rediscovery'].keys() == {'circuits'}
    again = results['rediscovery']['circuits']
    assert again['study']['sizes'] == [again['share'] * 8]
    # One half of the unseen problems; the size was chosen on the other.
    assert again['study']['problems'] == (results['data']['test'] + 1) // 2
    assert (again['faithful'], again['correlation'], again['chance']) == (False, None, None)


def test_what_is_found_of_a_ground_truth_beside_the_teacher_is_told_and_drawn(finished, report):
    pipeline, results = finished
    truth, methods = results['circuits']['ground_truth'], results['circuits']['methods']
    assert truth['methods'].keys() == methods.keys() == {'learned', *METHODS}
    assert (truth['classes'], truth['size'], truth['living']) == (2, 4, 16)
    learned = Circuit.load(pipeline.workdir / 'circuits' / 'teacher')
    planted = GroundTruth.load(pipeline.shared.inputs.teacher_path)
    rows = unseen_rows(pipeline.shared.inputs.split, pipeline.config.study)
    found = recovery(planted, learned.scores, learned.assignments, rows)
    assert truth['methods']['learned'] == {**found, 'kept': truth['methods']['learned']['kept']}
    page = report.read_text()
    figure = page.partition('<figure id="figure-recovery"')[2].partition('</figure>')[0]
    for key in truth['methods']:
        assert f'{methods[key]["title"]}, precision: ' in figure
    assert 'Of the 4\u00a0neurons that a planted class needs, a circuit of as many holds' in page


def test_the_report_of_this_run_opens_in_a_browser(finished, report):
    neurons, heard = finished[1]['neurons']['neurons'], []
    with chromium() as browser:
        for width, scheme in ((PHONE, 'dark'), (DESK, 'light')):
            page = open_page(browser, f'file://{report}', heard, width, scheme)
            check_whole(page, 20, width, scheme)
            assert page.locator('#figure-recovery [data-tip]').count() > len(METHODS)
            assert page.locator('.card').count() == len(neurons)
    assert heard == []


def test_the_rediscovered_circuits_are_of_the_distilled_student_and_the_teachers_classes(finished):
    workdir = finished[0].workdir
    student = load_huggingface(workdir / 'students' / 'nothing-circuits-0')
    circuit = Circuit.load(workdir / 'circuits' / 'student_nothing-circuits-0')
    assert circuit.info['model'] == model_hash(student)
    teacher = Circuit.load(workdir / 'circuits' / 'teacher')
    np.testing.assert_array_equal(circuit.assignments, teacher.assignments)
    assert teacher.info.keys() >= {'model', 'tokenizer', 'data', 'config', 'metrics'}


def test_a_second_run_recomputes_nothing(finished, monkeypatch):
    pipeline, results = finished

    def fail(*_, **__):
        raise AssertionError('computed again')

    for module, name in [
        (studies.discovery, 'discover'),
        (learned_masks, 'discover'),
        (studies.evaluation, 'study_circuits'),
        (studies.rediscovery, 'study_circuits'),
        (studies.rediscovery, 'load_huggingface'),
        (studies.pipeline, 'load_huggingface'),
        (studies.student, 'distill'),
        (studies.arms, 'train_language_model'),
    ]:
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(Inputs, 'load_teacher', fail)
    before = {path: path.stat().st_mtime_ns for path in _files(pipeline.workdir)}
    again = Pipeline(pipeline.config, pipeline.workdir, mesh=toy.one_device())
    assert again.run() == results
    assert {path: path.stat().st_mtime_ns for path in _files(pipeline.workdir)} == before


def test_without_arms_the_teacher_alone_is_looked_at(finished, tmp_path):
    """What the run above has of its teacher is all that there is to do, but for its layers."""
    pipeline, results = finished
    config, folder = without_students(pipeline.config), epath.Path(tmp_path) / 'run'
    before, after = [], []
    first = Pipeline(config, folder, mesh=toy.one_device(), announce=before.append)
    of_teacher = ('results/circuits.json', 'results/neurons.json', 'results/problems.json')
    for name in (*of_teacher, 'results/studies', 'circuits', 'stages/discover', 'stages/methods'):
        copy = shutil.copytree if (pipeline.workdir / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(exist_ok=True)
        copy(pipeline.workdir / name, folder / name)
    found = first.run()
    assert found['layer_similarity'].pop('students') == {}
    for name in ('circuits', 'neurons', 'problems', 'studies', 'smallest_faithful_share'):
        assert found[name] == results[name]
    assert found['layer_similarity']['teacher'] == results['layer_similarity']['teacher']
    assert found['starts'] == found['rediscovery'] == {}
    assert not any((folder / name).exists() for name in ('student', 'students', 'metrics.jsonl'))
    for name in ('config', 'results'):
        content = json.loads((folder / f'{name}.json').read_text())
        of_students = ('starts.', 'rediscovery.', 'layer_similarity.students.')
        told = disagreements(f'{name}.json', content)
        assert [field for field in told if not field.startswith(of_students)] == []
    again = Pipeline(config, folder, mesh=toy.one_device(), announce=after.append)
    assert [stage.name for stage in before[0].stages] == [stage.name for stage in after[0].stages]
    assert all(stage.done for stage in after[0].stages)
    assert again.run()['circuits'] == found['circuits']


def _files(workdir):
    return sorted(path for path in Path(workdir).rglob('*') if path.is_file())


def test_another_run_is_refused(finished):
    pipeline, _ = finished
    objective = AnySize(density=0.3, smallest=0.2, sizes=2)
    other = dataclasses.replace(
        pipeline.config,
        discovery=dataclasses.replace(pipeline.config.discovery, objective=objective),
    )
    before = (pipeline.workdir / 'config.json').read_text()
    with pytest.raises(InputError, match=r'density.*another --workdir'):
        Pipeline(other, pipeline.workdir, mesh=toy.one_device())
    assert (pipeline.workdir / 'config.json').read_text() == before


def test_the_export_has_equal_logits_in_transformers(finished):
    workdir = finished[0].workdir
    ours = load_huggingface(workdir / 'student')
    theirs = transformers.LlamaForCausalLM.from_pretrained(workdir / 'student')
    tokenizer = transformers.AutoTokenizer.from_pretrained(workdir / 'student')
    data = toy.dataset()
    assert tokenizer(list(data.prompts[:20])).input_ids == data.tokens[:20].tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor(data.tokens.astype(np.int64))).logits.numpy()
    logits, _ = jax.jit(lambda m, t: m(t))(ours, data.tokens)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    distilled = load_huggingface(workdir / 'students' / 'nothing-circuits-0')
    assert model_hash(ours) == model_hash(distilled)
