"""What the pages tell one to type is run, at the smallest size; one table says what cannot be."""

import itertools
import json
import os
import re
import shlex

import pytest
from forks import ROOT
from launchers import run_in_turn
from test_docs_commands import PAGES, blocks, commands, texts

# Commands of launchers that are not run here: words that are in them, and why. They are parsed
# by test_docs_commands.py all the same, and told by --dry_run where DRY says so.
NOT_RUN = {
    'runs/pooled_2': 'teachers of minutes; tests/studies/test_analysis.py takes tables together',
    'recipes/settle': 'an hour and more; tests/studies/test_settle.py runs the protocols',
    '--protocol=embedded': 'likewise',
    'recipes/tune': 'minutes; tests/studies/test_tuning.py runs the choice',
    'planted_one_size': 'a teacher that those hours train',
    'runs/planted/teachers': 'likewise',
    'planted_embedded': 'minutes; tests/planted train what is small',
    'found_embedded': 'what is found in that',
    'planted_null_necessary': 'likewise; in what two steps plant no neuron is necessary',
    'recipes/asserted': 'an hour; tests/studies/test_extra_studies.py runs the studies',
    'recipes/front': 'likewise',
    'pipeline --arms= ': 'the recipe areas.flags, which is run, is such a pipeline',
    'recipes/attribution': 'classes that are stable on all problems alone, 20 seconds and more',
    'runs/attribution': 'those circuits',
    'twins': 'minutes, for its steps are frozen; tests/studies/test_twins.py runs the study',
    '--teacher=FOLDER': '5 GB; tests/experiments/test_llama_recipes.py runs the recipe',
    'benchmark': 'minutes on a quiet machine; tests/experiments/test_benchmarks.py runs the suites',
    '--target=v5e': 'the compiler of a TPU; tests/planning compile for it where it is installed',
    '--target=h200x8': 'the compiler of a GPU, likewise; the planned recipe of one GPU is run',
    '--teacher=llama31_8b --target=h200x1': 'likewise',
    'llama31_8b --random_weights': '16 GB of weights; tests/models run the shapes',
    'meta-llama': 'a checkpoint of the hub, behind a licence',
    'smollm2_teacher': 'a pretrained model; tests/inference/test_real_data.py has its lengths',
    'smollm2_checked': 'likewise',
    '--plugins=': 'tests/test_extending.py runs it with the modules of that page',
}
DRY = (
    *('recipes/arms', 'start_memorises', 'recipes/tune'),
    *('recipes/front', 'recipes/asserted', 'recipes/settle'),
    *('pipeline --arms= ', 'twins', 'recipes/planted_embedded'),
)
# Other programs in blocks of shell: why they are not run here.
PROGRAMS = {
    'make': '`make test` is this suite; `make demo` takes minutes, and its plan is told below',
    'gcloud': 'an account; tests/cloud run the scripts against a fake one',
    'experiments/cloud/tpu.sh': 'likewise',
    'kubectl': 'a cluster; tests/cloud/test_cloud_jobs.py reads the manifests',
    'envsubst': 'likewise',
    'docker': 'a daemon and a registry',
    'sbatch': 'a Slurm cluster; tests/cloud read the script',
    'python3.11': 'installs this package',
    'python tests/faults/campaign.py': '14 minutes; tests/faults runs its short form',
    'python -m pip': 'installs a package',
    'python -m build': 'tests/test_package.py builds both archives',
}
SETS_UP = ('export', 'for ', 'done', 'eval', 'source .venv')

SMALL = ('--operands=3', '--high=3')
# One class, for batches of 8 hold too few of each where there are more.
SEARCH = (
    '--num_classes=1',
    '--discovery_steps=2',
    '--discovery_batch_size=32',
    '--smallest_size=.05',
)
ANY_MODEL = ('--least_accuracy=0', '--nocheck_gradients')
MEASURE = ('--evaluate_problems=32', '--noareas', '--sizes=.2', '--methods=mean_activation')
TRAINING = ('--steps=2', '--batch_size=8', '--evaluate_every=2')
# Other arms, and circuits of students: tests/studies/test_pipeline.py.
STUDENTS = (*TRAINING, '--arms=kd', '--rediscover=', '--seeds=0')
SHRUNK = {
    'discover': (*SEARCH, *ANY_MODEL),
    'evaluate': MEASURE,
    'distill': (*TRAINING, ANY_MODEL[1]),
    'train_teacher': (
        *(TRAINING[0], '--batch_size=32', '--evaluate_every=2', ANY_MODEL[1]),
        '--layers=1',
    ),
    'pipeline': (*SEARCH, *ANY_MODEL, *MEASURE, *STUDENTS),
    'compare_arms': (
        *(*SEARCH, *ANY_MODEL, *TRAINING, '--arm_problems=32'),
        *('--arms=kd,circuits,random_equal', '--seeds=0'),
        *('--learning_rate=2e-3', '--weight_decay=1', '--warmup_steps=0'),  # one program
    ),
    'accuracy': ('--answer_end=', '--shot_counts=0', '--max_problems=32'),
    'plan': (),
    'convert': (),
    'compare': (),
    'report': (),
}
# What is asked of the teacher that ships is asked of its first layer, but where heads have to know.
ONE_LAYER = 'one_layer'
CUT = ('--to=huggingface', '--keep_layers=0')
OF_A_TEACHER = ('discover', 'evaluate', 'distill', 'pipeline', 'compare_arms')
FOUR_CLASSES = ('--batch_size=32',)
TWO_ARMS = ('--arms=circuits,random_equal',)  # of one program, where KD has its own
PAIR = (*TWO_ARMS, *FOUR_CLASSES)
HEAD_START = '--head_start_steps=20'  # enough for heads to matter to a student
HEADS = ('--teacher=cdjax/assets/teacher', '--arms=all', HEAD_START)
# Behind these, of commands with such words: what they are about, where it has to be smaller too.
OWN = {
    '--seeds=0,1,2,3 ': ('--seeds=0,1',),
    # runs/arms is there
    'recipes/arms.flags': ('--arms=kd,circuits', '--seeds=0,1', '--workdir=runs/arms_first'),
    'start_memorises': TWO_ARMS,
    'recipes/arms_dissociation': ('--arms=first_circuit,second_circuit', *FOUR_CLASSES),
    'recipes/arms_factorial': ('--arms=circuits,random_equal,rest', *FOUR_CLASSES),
    'recipes/arms_mechanism': PAIR,
    '--workdir=runs/arms_weight_1': PAIR,
    'recipes/arms_weights': (*PAIR, '--weight_grid=.1,1'),
    'recipes/arms_planted': (*PAIR, '--arms=circuits,random_equal,fitnets'),
    'recipes/arms_problems.flags': (*PAIR, '--training_problems=46,92'),
    'recipes/arms_problems_embedded': ('--training_problems=25', '--arms=kd,all'),
    'recipes/arms_range.flags': (*TWO_ARMS, '--share_high=2,3,3'),
    'recipes/arms_range_factorial': ('--arms=kd,one_circuit', '--share_high=2,3,3'),
    'recipes/arms_two_tasks': ('--arms=first_circuit,second_circuit', *FOUR_CLASSES),
    'pooled_teachers': PAIR,
    'layer_pairs=head_shuffled': HEADS,
    'recipes/arms_forget': TWO_ARMS,
    'recipes/arms_partial': (*TWO_ARMS, HEAD_START),
    'recipes/arms_heads': HEADS,
}
# Words of commands that end in an error → how, at the end of what they say.
ERRORS = {
    'planted/null': (
        r'warning: attribution: there are no 4 stable classes: .*\n'
        r'error: classes=attribution: .*\n\Z'
    ),
}
# Of no problems, or as few as that.
AS_THEY_ARE = {'convert', 'compare', 'report', 'accuracy', 'plan'}
LEFT_OUT = {'--mechanism=atp'}  # tests/studies/test_mechanism.py
SUBSTITUTES = {
    '=PATH_OR_HUB_ID': f'={ONE_LAYER}',
    '=PATH': f'={ONE_LAYER}',
    'cdjax/assets/teacher': ONE_LAYER,
    '=h200x1': '=cpu',
    '$ablation': 'mean',
    # In what two steps have planted no neuron is necessary.
    'runs/planted_1/model': 'cdjax/assets/planted/lookup',
    '=TEACHER': '=cdjax/assets/teacher',
    '=STUDENT': '=runs/student',
    '--keep_layers=0,2,4': '--keep_layers=0',  # the teacher that ships has two layers
    'runs/demo': 'runs/README/mine',
    'runs/other': 'runs/areas',
    'mechanism-nothing-5': 'mechanism-nothing-1',  # of fewer arms
    'neuron-1-509': 'methods-1',  # of a smaller run, which has no such neuron
    'docs/images': 'runs',  # no page's picture is drawn again
}


def told():
    """Yields page, launcher and arguments of every command, once each."""
    seen = set()
    for page in PAGES:
        for text in texts(page):
            for words in commands(text):
                if tuple(words) not in seen:
                    seen.add(tuple(words))
                    yield page.stem, words


def first_of(table, words):
    """Returns what the first entry whose key is in a command says; None where there is none."""
    return next((what for part, what in table.items() if part in ' '.join(words)), None)


def why_not(words):
    return first_of(NOT_RUN, words)


def recipe(words):
    """Returns the flags of a command's flag file."""
    files = [w.removeprefix('--flagfile=') for w in words if w.startswith('--flagfile=')]
    return [line for file in files for line in (ROOT / file).read_text().splitlines()]


def shrunk(words):
    """Returns a command that does the same with less."""
    kept = [word for word in words if word not in LEFT_OUT]
    pattern = '|'.join(map(re.escape, SUBSTITUTES))
    words = [re.sub(pattern, lambda m: SUBSTITUTES[m[0]], word) for word in kept]
    flags = [*words, *recipe(words)]
    if words[0] in OF_A_TEACHER and not any(flag.startswith('--teacher=') for flag in flags):
        words.append(f'--teacher={ONE_LAYER}')
    own_problems = any(flag.startswith('--task') for flag in flags)
    small = () if own_problems or words[0] in AS_THEY_ARE else SMALL
    # What one command has compiled, the next finds: with the programs of all tests.
    together = () if words[0] in ('report', 'plan', 'compare') else ('--compilation_cache=',)
    shrink = SHRUNK[words[0]]
    # Whose classes are as many as operators or are given, who tells them apart or finds none.
    several = ('times_operators', 'recipes/selective', 'planted/null', 'arms_dissociation')
    several += ('arms_factorial', 'arms_mechanism', 'arms_weights', 'arms_two_tasks', 'pooled')
    if any(name in word for word in words for name in several):
        shrink = [flag for flag in shrink if flag != SEARCH[0]]
    if any('areas.flags' in word for word in words):  # which has no students
        shrink = [flag for flag in shrink if flag not in STUDENTS]
    if '--objective=causal' in flags:  # which has no sizes
        shrink = [flag for flag in shrink if not flag.startswith('--smallest_size=')]
    return [*words, *shrink, *small, *together, *(first_of(OWN, words) or ())]


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """What the pages' commands do in a folder like a checkout, page by page, reports at the end."""
    folder, streams = (tmp_path_factory.mktemp(name) for name in ('checkout', 'streams'))
    for name in ('cdjax', 'experiments'):
        os.symlink(ROOT / name, folder / name)
    sums = itertools.product(range(6), range(8), range(4))  # as many as those of `SMALL`
    lines = [{'prompt': f'{a}+{b}+{c}=', 'answer': str(a + b + c)} for a, b, c in sums]
    (folder / 'my_problems.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    run = {'cut': ['convert', '--source=cdjax/assets/teacher', f'--target={ONE_LAYER}', *CUT]}
    for page, words in sorted(told(), key=lambda page_and_words: page_and_words[1][0] == 'report'):
        if why_not(words) is None:
            # A folder that the first page fills by other flags is not the tutorial's.
            own = 'runs/README/' if page == 'README' else 'runs/'
            run[f'{page}-{len(run)}'] = [re.sub('runs/(?!README)', own, w) for w in shrunk(words)]
    return run, run_in_turn(run, streams, seconds=900, cwd=folder), folder


def test_every_command_that_can_run_here_runs(outcomes):
    run, ended, folder = outcomes
    assert len(run) > 12
    bad = {name for name, words in run.items() if first_of(ERRORS, words)}
    wrong = {' '.join(run[n]): o.err[-500:] for n, o in ended.items() if o.code and n not in bad}
    assert not wrong
    assert len(bad) == len(ERRORS)
    for name in bad:
        code, _, err = ended[name]
        assert code == 1
        assert re.search(first_of(ERRORS, run[name]), err), err
    assert (folder / 'runs/one/mean.json').exists()  # $ablation
    assert (folder / 'runs/README/distill/student/model.safetensors').exists()
    for page in ('runs/README/mine/report.html', 'runs/arms/report.html', 'compare.html'):
        assert (folder / page).exists()


def test_each_tells_first_what_and_last_where(outcomes):
    run, ended, _ = outcomes
    for name, (launcher, *_) in run.items():
        if launcher in SHRUNK.keys() - AS_THEY_ARE and not ended[name].code:
            lines = ended[name].out.splitlines()
            assert lines[0].startswith(f'{launcher}: '), (name, lines[0])
            assert lines[-1].startswith('everything is in runs/'), (name, lines[-1])


def test_what_is_too_long_tells_its_plan(tmp_path):
    recipes = [['pipeline', '--flagfile=experiments/recipes/demo.flags']]
    recipes += [words for _, words in told() if any(part in ' '.join(words) for part in DRY)]
    # Models that commands before them train.
    stand_ins = {
        'arms_forget': ['--student=cdjax/assets/teacher'],
        'arms_two_tasks': [
            '--teacher=cdjax/assets/teacher',
            '--student=cdjax/assets/teacher/config.json',
        ],
    }
    instead = lambda words: next((v for k, v in stand_ins.items() if k in ' '.join(words)), [])
    dry = {
        f'{i}': [
            *words,
            *instead(words),
            '--dry_run',
            f'--workdir={tmp_path}/run',
        ]
        for i, words in enumerate(recipes)
    }
    ended = run_in_turn(dry, tmp_path)
    for name, (code, out, err) in ended.items():
        assert code == 0, (dry[name], err)
        assert 'nothing was claimed, loaded or written' in out
        if any(word.startswith('--flagfile=') for word in dry[name]):
            assert re.search(r'\.flags (says|stands): .*(minute|hour)', out.splitlines()[0]), out
    assert not (tmp_path / 'run').exists()


def test_the_tables_hold_what_the_pages_have():
    everything = [' '.join(words) for _, words in told()]
    for part in NOT_RUN:
        assert any(part in text for text in everything), f'no command has {part!r} any more'
    lines = [
        ' '.join(shlex.split(line, comments=True, posix=False))
        for page in PAGES
        for text in blocks(page, 'bash')
        for line in text.replace('\\\n', ' ').splitlines()
    ]
    others = [
        line for line in lines if line and not line.startswith(('python -m experiments', *SETS_UP))
    ]
    assert [line for line in others if not line.startswith(tuple(PROGRAMS))] == []
    for name in PROGRAMS:
        assert any(line.startswith(name) for line in others), (
            f'no line begins with {name!r} any more'
        )
