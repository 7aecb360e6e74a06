"""A mistake costs one line, exit status 1 and nothing else, whichever launcher it is made with."""

import os
import re

import pytest
from bad_inputs import make_files
from launchers import run_in_turn, run_launchers
from mistakes_in_inputs import CIRCUITS, MODELS, PROBLEMS, TASK_FILES
from mistakes_in_trainings import DISCOVERY, DISTILLATION, RUNS

TOY = ('--teacher={teacher}', '--operands=2', '--high=9', '--compilation_cache=')
ARITHMETIC = TOY[1:3]  # not of problems that are given
RUN = (*TOY, '--workdir={new}', '--least_accuracy=0')  # the toy teacher answers nothing right
BATCH = '--batch_size=16'  # of a share of 29
SOUND = {
    'discover': RUN,
    'distill': (*RUN[:-1], BATCH, '--arm=kd'),
    'compare_arms': (*RUN, BATCH),
    # Of the 32 neurons of its student 1 % are none.
    'pipeline': (*RUN, BATCH, '--smallest_size=.05'),
    'accuracy': (*TOY[:2], '--ranges=0:9', TOY[-1]),
    'evaluate': (*TOY, '--circuits={circuits}', '--output={new}'),
    'plan': (*TOY[:-1], BATCH, '--target=cpu', '--nolargest_batch', '--output={new}'),
    'train_teacher': (*TOY[1:], '--workdir={new}'),
    'settle': ('--workdir={new}', '--compilation_cache='),
    'tune': (*RUN, '--grid={grid}'),
    'twins': ('--workdir={new}', '--compilation_cache='),
    'convert': ('--source={teacher}', '--target={new}', '--compilation_cache='),
    'compare': (),
    'report': ('--workdir={new}',),
    'benchmark': ('--suite=checkpoint_memory', '--output={new}'),
}
# Launcher, flags that follow sound ones, and words that the line must hold.
OTHERS = [
    ('convert', '--source={folder}/none', 'no folder'),
    ('convert', '--source={weights_cut}', 'truncated'),
    ('convert', '--source={config_gelu}', 'hidden_act'),
    ('convert', '--source={orbax} --to=huggingface', 'damaged'),
    ('convert', '--target={foreign}', 'exists and is not empty'),
    ('convert', '--target={file}/model', 'is no folder'),
    ('convert', '--to=torch', '--to=torch', 'huggingface|orbax'),
    ('convert', '--keep_layers=0,9', 'keep_layers=0,9: name layers of 0 to 1'),
    ('convert', '--keep_layers=0,9 --dry_run', 'keep_layers=0,9: name layers of 0 to 1'),
    ('convert', '--source={orbax} --keep_layers=1,0', 'keep_layers=1,0: name layers of 0 to 1'),
    ('convert', '--dtype=int8', '--dtype=int8'),
    ('convert', '--max_shard_gb=0', 'max_shard_gb=0', 'above 0'),
    ('convert', '--max_shard_gb=nan', 'max_shard_gb=nan'),
    ('convert', '--max_shard_gb=inf', 'max_shard_gb=inf'),
    ('convert', '--golden={folder}/none', 'is no golden file'),
    ('convert', '--golden={golden}', 'is no golden file'),
    ('convert', '--golden={golden} --save_golden={new}', 'no --golden'),
    ('convert', '--save_golden={foreign}', 'is a folder'),
    ('convert', '--save_golden={golden}', 'golden exists: name another file'),
    ('train_teacher', '--hidden_size=0', 'hidden_size=0'),
    ('train_teacher', '--hidden_size=-4', 'hidden_size=-4'),
    ('train_teacher', '--heads=0', 'heads=0'),
    ('train_teacher', '--heads=3', 'heads=3 does not divide'),
    ('train_teacher', '--kv_heads=3', ' kv_heads=3 does not divide heads=4'),
    ('train_teacher', '--kv_heads=0', ' kv_heads=0'),
    ('train_teacher', '--layers=0', ' layers=0'),
    ('train_teacher', '--layers=9999999', ' layers=9999999', 'at most 65535'),
    ('train_teacher', '--intermediate_size=0', 'intermediate_size=0'),
    ('train_teacher', '--max_number=5', 'max_number=5'),
    ('train_teacher', '--max_number=1000', 'max_number=1000'),
    ('train_teacher', '--steps=0', 'steps=0'),
    ('train_teacher', '--batch_size=0', 'batch_size=0'),
    ('train_teacher', '--batch_size=1000000000', 'batch_size=1000000000 takes at least', 'GB'),
    ('train_teacher', '--batch_size=1000', 'batch_size=1000 is more than the 123 problems'),
    ('train_teacher', '--learning_rate=nan', 'learning_rate=nan'),
    ('train_teacher', '--weight_decay=inf', 'weight_decay=inf'),
    ('train_teacher', '--seed=-1', 'seed=-1'),
    ('train_teacher', '--output={foreign}', 'exists'),
    ('train_teacher', '--output={file}/model', 'is no folder'),
    ('train_teacher', '--evaluate_every=-1', 'evaluate_every=-1'),
    ('plan', '--target=v9:4x4', 'v9:4x4'),
    ('plan', '--target=v5e:5', 'target=v5e:5'),
    ('plan', '--target=cpu:0', 'cpu:0'),
    ('plan', '--target=cpu:4 --fsdp=3', 'fsdp=3 does not divide'),
    ('plan', '--target=cpu:4 --fsdp=2 --tensor=4', 'is not the 4 devices'),
    ('plan', '--job=dream', '--job=dream'),
    ('plan', '--recipe={folder}/none', 'is no file'),
    ('plan', '--recipe={recipe_unknown}', '--steps=many'),
    ('plan', '--recipe={task_binary}', 'task_binary is no text'),
    ('plan', '--flagfile={recipe_other}', 'no flag --workdir', '--recipe=FILE'),
    ('plan', '--tokens_per_pass=0', 'tokens_per_pass=0'),
    ('plan', '--output={file}/plan.json', 'is no folder'),
    ('plan', '--output={foreign}', 'is a folder'),
    ('plan', '--output={file}', 'holds something else than a plan'),
    ('plan', '--output={circuits_description}', 'holds something else than a plan'),
    ('plan', '--layer_pairs=7:7', '7:7 is not a pair'),
    ('report', '', 'results.json does not exist'),
    ('report', '--workdir={results_cut}', 'is damaged'),
    ('report', '--workdir={results_list}', 'is damaged'),
    ('report', '--workdir={file}', 'file is a file: name the folder of the run'),
    ('report', '--output=a.html', 'output=a.html is for --compare or --figure'),
    ('report', '--figure=methods-1 --output={file}', 'name a file that ends with .svg'),
    ('report', '--figure=methods-1 --output={file}/a.svg', 'is no folder'),
    ('report', '--compare=yes', '--compare=yes: write true or false, or no value'),
    ('benchmark', '--suite=speed', '--suite=speed'),
    ('benchmark', '--model=llama9', '--model=llama9'),
    ('benchmark', '--devices=0', 'devices=0'),
    ('benchmark', '--output={file}/result.json', 'is no folder'),
    ('benchmark', '--student=llama3_8b', 'student=llama3_8b is not read by suite=checkpoint'),
    ('benchmark', '--suite=programs --jobs=distil', 'jobs=distil: did you mean distill? choose'),
    ('benchmark', '--suite=all --masks=3 --model=llama3_8b', 'model=llama3_8b is not read by'),
    ('benchmark', '--output={foreign}', 'is a folder'),
    ('benchmark', '--output={circuits_description}', 'holds something else than a benchmark'),
    ('benchmark', '--scratch={folder}/none', 'scratch'),
]
FLAGS = [
    ('discover', '--discovery_step=5', 'no flag --discovery_step', '--discovery_steps'),
    ('discover', '--steps=100', 'mean --discovery_steps or --profile_steps?'),
    ('discover', '--nodry_run=3', '--nodry_run=3: write --nodry_run or --dry_run=false'),
    ('evaluate', '--noareas=true', '--noareas=true: write --noareas or --areas=false'),
    ('plan', '--recipe={recipe_switch}', '--nolargest_batch=1: write --nolargest_batch'),
    (
        'discover',
        '--flagfile=experiments/recipes/arms.flags',
        'no flag --arms, which stands in experiments/recipes/arms.flags: ',
        'of experiments.compare_arms',
    ),
    ('discover', '--flagfile={recipe_other} --arms=kd', 'no flag --arms: see'),
    ('evaluate', '--workdir=x', 'no flag --workdir', 'evaluate'),
    ('pipeline', '--seed=3', 'no flag --seed', '--seeds'),
    ('compare_arms', '--arm=kd', 'no flag --arm', '--arms'),
    ('train_teacher', '--batchsize=9', 'no flag --batchsize', '--batch_size'),
    ('report', '--work_dir=9', 'no flag --work_dir', '--workdir'),
    ('discover', '--random_weights=perhaps', '--random_weights=perhaps'),
    ('discover', '--flagfile={folder}/none.flags', 'none.flags'),
    ('discover', '--flagfile={task_binary}', 'flagfile: ', 'a flag a line'),
    ('plan', '--steps', '--steps'),
    ('distill', 'seeds=3', "unexpected argument 'seeds=3'"),
    ('convert', '--to', '--to'),
    ('compare', '--plugin=3', 'no flag --plugin', '--plugins'),
    ('benchmark', '--device=3', 'no flag --device', '--devices'),
]
REQUIRED = [
    ('evaluate', '--circuits'),
    ('convert', '--source'),
    ('benchmark', '--suite'),
]
CASES = [
    *(PROBLEMS + TASK_FILES + MODELS + CIRCUITS + DISCOVERY + DISTILLATION + RUNS),
    *(OTHERS + FLAGS),
]


def name_of(at):
    return f'{CASES[at][0]}-{at}' if at < len(CASES) else f'{REQUIRED[at - len(CASES)][0]}-{at}'


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder, streams = (tmp_path_factory.mktemp(name) for name in ('mistakes', 'streams'))
    files = make_files(folder)
    before = snapshot(folder)
    commands = {}
    for at, (launcher, text, *_) in enumerate(CASES):
        new = folder / f'new-{at}'
        flagged = text.startswith('--')
        own = re.split(r' (?=--)', text) if flagged else text.split()
        sound = [flag for flag in SOUND[launcher] if flag not in ARITHMETIC or '--task' not in text]
        flags = [flag.format(new=new, **files) for flag in (*sound, *own)]
        commands[name_of(at)] = [launcher, *flags]
    for at, (launcher, _) in enumerate(REQUIRED, len(CASES)):
        commands[name_of(at)] = [launcher]
    # JAX joins other processes before anything else of its process.
    of_several = {k: v for k, v in commands.items() if '--num_processes' in ' '.join(v)}
    alone = {name: words for name, words in commands.items() if name not in of_several}
    ended = run_in_turn(alone, streams, seconds=30)
    ended |= run_launchers(of_several, streams, at_once=os.cpu_count(), seconds=30)
    return files, ended, before, snapshot(folder)


def snapshot(folder):
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob('*'))
    }


def wrong_with(outcome, words):
    """Returns what is wrong with how a launcher has ended, '' if nothing is."""
    lines = outcome.err.strip().splitlines()
    if outcome.code != 1:
        return f'status {outcome.code}: {lines[-3:]}'
    if len(lines) != 1 or not lines[0].startswith('error: '):
        return f'{len(lines)} lines: {lines[-3:]}'
    if absent := [word for word in words if word not in lines[0]]:
        return f'{absent} not in {lines[0]}'
    # What the models or the disk refuse comes after the line that tells what is going to be done.
    told = re.fullmatch(
        r'\w+: .* (on 1 device|on \d+ unseen problems|orbax|huggingface).*\n', outcome.out
    )
    return f'printed {outcome.out}' if outcome.out and not told else ''


@pytest.mark.parametrize('at', range(len(CASES) + len(REQUIRED)), ids=name_of)
def test_a_mistake_is_one_line_and_status_1(outcomes, at):
    files, ended, *_ = outcomes
    if at < len(CASES):
        words = [word.format(**files) for word in CASES[at][2:]]
    else:
        words = [REQUIRED[at - len(CASES)][1], 'must be given']
    assert not wrong_with(ended[name_of(at)], words)


def test_nothing_is_claimed_or_changed(outcomes):
    *_, before, after = outcomes
    assert after == before


def test_there_are_mistakes_enough():
    assert len(CASES) + len(REQUIRED) >= 200
    assert {launcher for launcher, *_ in CASES} == SOUND.keys()
