"""Train and test never mix, from one launcher to the next: each knows what the one before did."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import toy_study as toy
from artefacts import disagreements
from launchers import Outcome, run_in_turn

from cdjax.data import save_tokenizer
from cdjax.models import save_huggingface

TASK = ('--operands=2', '--high=9', '--share=0.5', '--test=0.25', '--compilation_cache=')
# The toy models answer nothing right.
STEPS = (
    '--discovery_steps=2',
    '--discovery_batch_size=16',
    '--smallest_size=.05',
    '--least_accuracy=0',
    '--nocheck_gradients',
)
SHAPE = dataclasses.replace(toy.teacher_config(), num_layers=1, rope_theta=1e4)
# A model that is trained as a student of that shape is: both start by one program.
TINY = ('--layers=1', '--hidden_size=8', '--intermediate_size=16', '--heads=2', '--kv_heads=1')
TINY += (f'--max_number={toy.MAX_NUMBER}', '--weight_decay=1')
DISTIL = ('--arm=circuits', '--steps=2', '--batch_size=16', '--evaluate_every=2', STEPS[-1])


class Runs(NamedTuple):
    """A folder, how what was run in it has ended, and what it computed."""

    folder: Path
    ended: dict[str, Outcome]
    programs: Path


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder, streams = (tmp_path_factory.mktemp(name) for name in ('runs', 'streams'))
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    for name, seed in (('teacher', 0), ('other', 1)):
        model = toy.random_model(SHAPE, seed)
        save_huggingface(model, folder / name, tokenizer_from=folder / 'tokenizer')
    common = [f'--teacher={folder}/teacher', *TASK]
    circuits = f'--circuits={folder}/first/circuits/teacher.safetensors'
    student = f'--student={folder}/distill/student'
    lines = [  # as many as of TASK, for which programs are compiled once
        {'prompt': f'{a}{sign}{b}=', 'answer': answer, 'counterfactual': f'{b}+{(a + 1) % 10}='}
        for a in range(10)
        for b in range(10)
        for sign, answer in (('+', a + b), ('-', a - b))
        if answer >= 0
    ]
    task = folder / 'task.jsonl'
    task.write_text('\n'.join(map(json.dumps, lines)))
    on_file = [common[0], *TASK[2:], f'--task_file={task}']
    search_of_file = ['discover', f'--workdir={folder}/on_file', *on_file, *STEPS]
    trained = ['train_teacher', f'--workdir={folder}/trained', *TASK, *TINY, *DISTIL[1:]]
    evaluate = ['evaluate', circuits, '--sizes=.1', '--noareas']
    distill = ['distill', *DISTIL, circuits]
    other_split = [*common, '--split_seed=1']
    of_file = f'--circuits={folder}/on_file/circuits/teacher.safetensors'
    commands = {
        'first': ['discover', f'--workdir={folder}/first', *common, *STEPS],
        'on_file': search_of_file,
        'trained': trained,
        'evaluate': [*evaluate, *common],
        'distill': [*distill, *common, f'--workdir={folder}/distill'],
        'evaluate_dry': [*evaluate, *common, f'--output={folder}/new', '--dry_run'],
        'evaluate_split': [*evaluate, *other_split],
        'evaluate_test': [*evaluate, *common, '--test=0.5'],
        'evaluate_task': [*evaluate, *common, '--high=8'],
        'evaluate_model': [*evaluate, *common, f'--teacher={folder}/other'],
        'distill_split': [*distill, *other_split, f'--workdir={folder}/new'],
        'distill_model': [*distill, *common, f'--teacher={folder}/other', f'--workdir={folder}/x'],
        'student_split': [*distill, *other_split, student, f'--workdir={folder}/new'],
        'weak': ['discover', f'--workdir={folder}/new', *common, *STEPS[:3], STEPS[-1]],
        'other_output': [*trained, f'--output={folder}/other'],
    }
    ended = run_in_turn(commands, streams, programs=True)
    shutil.copytree(folder / 'on_file', folder / 'on_file_before')
    lines[5]['counterfactual'] = '0+0='
    task.write_text('\n'.join(map(json.dumps, lines)))
    changed = {'evaluate_file': ['evaluate', of_file, *on_file], 'discover_file': search_of_file}
    return Runs(folder, ended | run_in_turn(changed, streams), streams)


def refused(outcome, *words):
    assert outcome.code == 1, outcome.err
    *before, line = outcome.err.strip().splitlines()
    assert all(other.startswith('warning: ') for other in before), outcome.err
    assert line.startswith('error: ')
    for word in words:
        assert word in line, line


def test_the_same_flags_go_on(outcomes):
    for name in ('first', 'on_file', 'trained', 'evaluate', 'distill'):
        assert outcomes.ended[name].code == 0, outcomes.ended[name].err


def test_an_evaluation_says_what_it_will_measure(outcomes):
    """With --dry_run that is all; `new` is looked for below."""
    done, dry = outcomes.ended['evaluate'].out, outcomes.ended['evaluate_dry']
    assert (dry.code, dry.err) == (0, '')
    first, *others = dry.out.splitlines()
    line, _, output = first.partition('; to ')
    assert output == f'{outcomes.folder}/new; the time that is left is told on the way'
    assert done.startswith(line)
    assert '  study.sizes = [0.1]' in others
    assert others[-1] == 'nothing was claimed, loaded or written'


@pytest.mark.parametrize('name', ['evaluate_split', 'evaluate_test', 'distill_split'])
def test_circuits_are_not_measured_on_what_they_were_learned_from(outcomes, name):
    words = ['another split', 'give the split flags']
    seeds = ['split_seed=0 there', 'split_seed=1 here'] if 'split' in name else ['test=0.5 here']
    refused(outcomes.ended[name], 'teacher.safetensors comes from', *words, *seeds)


def test_circuits_of_other_problems_and_models_are_refused(outcomes):
    refused(outcomes.ended['evaluate_task'], 'comes from other problems', 'give the task flags')
    for name in ('evaluate_model', 'distill_model'):
        refused(outcomes.ended[name], 'comes from another model', 'name the checkpoint')


def test_changed_counterfactuals_are_other_problems(outcomes):
    folder, ended, _ = outcomes
    refused(ended['evaluate_file'], 'comes from other problems', 'the unchanged task file')
    refused(ended['discover_file'], 'holds another run', 'inputs.data is')
    for path in (folder / 'on_file_before').rglob('*'):
        if path.is_file():
            now = folder / 'on_file' / path.relative_to(folder / 'on_file_before')
            assert now.read_bytes() == path.read_bytes(), 'the old figures are as they were'


def test_a_student_is_not_measured_on_what_it_was_trained_on(outcomes):
    refused(outcomes.ended['student_split'], 'was trained on', 'held out here', '--split_seed=0')


def test_what_the_launchers_write_is_as_its_page_says(outcomes):
    folder = outcomes.folder
    for section, file in {
        'config.json': 'first/config.json',
        'circuits/NAME.json': 'first/circuits/teacher.json',
        'NAME.study.json': 'first/circuits/teacher.study.json',
        'training_data.json': 'distill/student/training_data.json',
    }.items():
        content = json.loads((folder / file).read_text())
        assert disagreements(section, content) == [], file
    assert (
        disagreements('config.json', json.loads((folder / 'distill/config.json').read_text())) == []
    )


def test_a_teacher_that_cannot_do_the_problems_claims_no_folder(outcomes):
    """For the corrected command, with another least_accuracy, would be another run there."""
    refused(outcomes.ended['weak'], 'the teacher answers', 'set least_accuracy=0')


def test_a_model_of_another_run_is_not_told_as_this_one(outcomes):
    """What lay there was left alone, and `saved to` named it."""
    refused(outcomes.ended['other_output'], 'holds another run: output is null there')


def test_what_is_refused_claims_no_folder(outcomes):
    assert not (outcomes.folder / 'new').exists()


@pytest.mark.parametrize('name', ['first', 'trained', 'evaluate', 'distill'])
def test_every_product_of_float32_is_one(outcomes, name):
    """A GPU would take TF32 for it, a TPU bfloat16, in training, evaluation and the classes."""
    files = list((outcomes.programs / f'{name}.programs').iterdir())
    products = [
        line
        for file in files
        for line in file.read_text().splitlines()
        if 'stablehlo.dot_general' in line
    ]
    floats = [
        line for line in products if re.search(r': \(tensor<[^>]*f32>, tensor<[^>]*f32>', line)
    ]
    assert len(floats) > 20
    assert [line for line in floats if 'precision = [HIGHEST, HIGHEST]' not in line] == []
