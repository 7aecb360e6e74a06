"""A pair of checkpoints, from circuits of both to exported students, the controls as one flag.

Their problems are real ones: answers of one and of two tokens. The weight of each arm is chosen.
And a table that is finished: arms and seeds are added to it, and nothing is computed again.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import toy_study as toy
from artefacts import disagreements

from cdjax import studies
from cdjax.circuits.circuit import model_hash
from cdjax.data import ArithmeticTask, save_tokenizer
from cdjax.data.limits import Limits
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.shard_folder import MANIFEST
from cdjax.models import load_huggingface, save_huggingface
from cdjax.run.json_file import read_json
from cdjax.run.options import RunOptions
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.inputs import InputsConfig
from cdjax.studies.mechanism import Mechanism
from cdjax.studies.outlook import no_announcement
from cdjax.studies.pipeline import TABLE, Pipeline, PipelineConfig
from cdjax.studies.weight_grid import WeightGrid
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.objectives import AnySize
from cdjax.training.optimizer import OptimizerConfig

# A deeper teacher of the Llama 3.1 form and a student of the 3.2 form, which ties its embeddings.
TEACHER = toy.teacher_config()
STUDENT = dataclasses.replace(toy.student_config(), num_layers=1, tie_embeddings=True)
ARMS = ('kd', 'circuits', 'random_equal')
# Numbers to 20 are one token, others a token for each digit.
TASK = ArithmeticTask(('+', '-'), 2, 5, 14, answer_tokens=2)
MORE = (*ARMS, 'wrong')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pair')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    for name, shape, seed in (('teacher', TEACHER, 0), ('student', STUDENT, 1)):
        save_huggingface(
            toy.random_model(shape, seed), folder / name, tokenizer_from=folder / 'tokenizer'
        )
    (folder / 'text.txt').write_text('1+2=3 ' * 40)
    (folder / 'other.jsonl').write_text(
        ''.join(f'{{"prompt": "{n}*2=", "answer": {2 * n}}}\n' for n in (2, 3, 4))
    )
    inputs = InputsConfig(
        TASK,
        share=0.5,
        test=0.25,
        limits=Limits((13,)),
        text=str(folder / 'text.txt'),
        other_tasks=(str(folder / 'other.jsonl'),),
        teacher=str(folder / 'teacher'),
        student=str(folder / 'student'),
    )
    return PipelineConfig(
        inputs,
        DiscoveryConfig(
            OptimizerConfig(2, 1e-2),
            num_classes=2,
            objective=AnySize(density=0.25, smallest=0.2, sizes=2),
            batch_size=32,
            least_accuracy=0.0,
        ),
        CircuitStudyConfig(methods=()),
        ArmsConfig(
            DistillationConfig(
                OptimizerConfig(2), batch_size=32, teacher_store=str(folder / 'store'), top_k=20
            ),
            Alignment(min_count=4),
            arms=ARMS,
            primary=('circuits', 'random_equal'),
            mechanism='mean_activation',
            max_problems=30,
            training_problems=(40,),
            weight_grid=WeightGrid((0.5, 1.0), (8,)),
        ),
        layer_pairs='depth',
        rediscover=(),
        export='kd',
    )


def run(config, workdir, announce=no_announcement, **changes):
    arms = dataclasses.replace(config.arms, **changes)
    pipeline = Pipeline(
        dataclasses.replace(config, arms=arms),
        workdir,
        mesh=toy.one_device(),
        name=TABLE,
        options=RunOptions(check_gradients=False),
        announce=announce,
    )
    return pipeline.compare_arms()['checkpoint']


@pytest.fixture(scope='module')
def table(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'run'
    before, chosen_on, distil = toy.compilations('step'), [], studies.weights.distil
    measured, measure = {}, Mechanism.measure

    def noted(run, lesson, student, config, problems, **options):
        chosen_on.append((problems, run.inputs))
        return distil(run, lesson, student, config, problems, **options)

    def measured_one(self, student, name, *told):
        measured[name] = model_hash(student)
        return measure(self, student, name, *told)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies.weights, 'distil', noted)
        patch.setattr(Mechanism, 'measure', measured_one)
        found = run(config, workdir)
    return workdir, found, toy.compilations('step') - before, chosen_on, measured


def test_a_pair_of_checkpoints_ends_in_a_table_and_in_students(config, table):
    workdir, found, *_, measured = table
    assert [row['arm'] for row in found['table']] == list(ARMS)
    assert found['runs'][0]['pairs'] == [[0, 1]]
    assert found['primary']['arm'] == 'circuits'
    assert set(found['headroom']) == {'circuits', 'random_equal'}
    assert found['contribution'] == {'circuits': 1, 'random_equal': pytest.approx(0.9, abs=0.2)}
    (few,) = found['by_problems']['arms'][:1]
    assert (few['arm'], len(few['means'])) == ('kd', 2)
    assert len(found['by_problems']['problems']) == 2
    assert found['by_problems']['problems'][0] <= 40
    assert few['means'][1] == found['table'][0]['mean']
    of_kd = next(run for run in found['runs'] if run['arm'] == 'kd')
    assert found['costs'][0]['perplexity']['values'] == [of_kd['perplexity']]
    assert of_kd['beyond'] is not None
    assert len(of_kd['other_tasks']) == 1
    assert found['first']['perplexity'][0] > 1
    for arm in ARMS:
        student = load_huggingface(workdir / 'students' / f'checkpoint-{arm}-0')
        assert student.config == STUDENT
        assert measured[f'checkpoint-{arm}-0'] == model_hash(student)
    store = read_json(Path(config.arms.distillation.teacher_store) / 'activations' / MANIFEST)
    assert store['wanted']['layers'] == [1]
    assert store['answer_tokens'] == 2


def test_arms_of_one_shape_share_their_step(table):
    # Discovery of both models; KD; circuits and random_equal, which have one shape, of all weights.
    assert table[2] == 3


def test_weights_are_chosen_on_forms_that_neither_students_nor_the_table_know(table):
    told, chosen_on = table[1]['weights'], table[3]
    assert [row['arm'] for row in told['arms']] == ['circuits', 'random_equal']
    assert len(chosen_on) == 4, 'two arms with two weights'
    for problems, inputs in chosen_on:
        known = [*inputs.split.share, *inputs.split.test, *inputs.beyond]
        assert not set(problems.forms) & set(inputs.dataset.forms[known])
        assert len(problems) == told['problems'] == 30


def test_every_file_is_as_its_page_says(table):
    workdir = table[0]
    for section, pattern in {
        'results/arms/START-ARM-SEED.json': '**/results/arms/*',
        'results/mechanism/START-ARM-SEED.json': 'results/mechanism/*',
        'results/headroom/START.json': 'results/headroom/*',
        'results/start_START.json': 'results/start_*.json',
        'results/step_flops/START.json': 'results/step_flops/*',
        'results/weights/START-ARM-WEIGHT-SEED.json': 'results/weights/*',
    }.items():
        files = sorted(workdir.glob(pattern))
        assert files, section
        for file in files:
            assert disagreements(section, read_json(file)) == [], file
    starts = {'checkpoint': table[1]}
    known = [text for text in disagreements('arms.json', {'version': 2, 'starts': starts})]
    assert known == []


def test_arms_and_seeds_are_added_to_a_finished_table(config, table, monkeypatch):
    workdir, found, *_ = table
    trained, distill = {}, studies.student.distill

    def counted(student, store, problems, config, *, description, **options):
        trained.setdefault(description, []).append(config.weight)
        return distill(student, store, problems, config, description=description, **options)

    monkeypatch.setattr(studies.student, 'distill', counted)
    compiled = toy.compilations('step')
    # As it was told before what the chosen size keeps was measured elsewhere: it is told again.
    old = next((workdir / 'results' / 'mechanism').glob('*-circuits-0.json'))
    told = read_json(old)
    old.write_text(json.dumps({key: told[key] for key in told if key != 'faithful_kept'}))
    outlooks = []
    again = run(config, workdir, announce=outlooks.append)
    assert read_json(old) == told
    assert trained == {}
    tried = [stage for stage in outlooks[0].stages if stage.name.startswith('choose weight')]
    assert [stage.done for stage in tried] == 4 * [True]
    assert again == found
    # A weight that did better on those problems is taken, by the students that are still to come.
    better = workdir / 'results' / 'weights' / 'checkpoint-circuits-0.5-8.json'
    better.write_text(json.dumps(read_json(better) | {'accuracy': 1.0}))
    more = run(config, workdir, arms=MORE, seeds=(0, 1))
    chosen = {row['arm']: row['chosen'] for row in more['weights']['arms']}
    assert chosen == {'circuits': 0.5, 'random_equal': 1, 'wrong': 1}
    tried = {f'choose weight: wrong, {weight}, seed 8': [weight] for weight in (1, 0.5)}
    assert {name: trained.pop(name) for name in tried} == tried
    assert toy.compilations('step') == compiled
    added = {('wrong', 0), *((arm, 1) for arm in MORE)}
    assert trained == {
        # With all problems, and with fewer.
        f'distill: {arm}, seed {seed}': 2 * [chosen.get(arm, 1)]
        for arm, seed in added
    }
    assert [row['arm'] for row in more['table']] == list(MORE)
    assert more['table'][1]['accuracies'][0] == found['table'][1]['accuracies'][0]
    assert more['table'][1]['seeds'] == [0, 1]
    assert set(more['headroom']) == set(MORE[1:])
    assert more['primary']['analysis'] != found['primary']['analysis'], 'it is told of'
    assert len(more['first']['unseen']) == 2
    assert {row['arm']: row['seeds'] for row in more['mechanism']}['wrong'] == 2
    assert np.isfinite([run['unseen'] for run in more['runs']]).all()
