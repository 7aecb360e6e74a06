"""What the pages tell one to type: commands are parsed by their launchers, programs run."""

import re
import shlex
from pathlib import Path

import pytest
from launchers import run_in_turn, run_launchers

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
# Python, `tpu.sh watch ... --` and `sbatch ... slurm.sh`, which hand what follows to Python.
STARTERS = r'python -m|--|slurm\.sh'
# Page → the file of tests that runs its programs in Python, and how many these are.
PROGRAMS = {
    'README': ('docs/test_docs_commands.py', 1),
    'checkpoints': ('models/test_checkpoints_docs.py', 1),
    'extending': ('test_extending.py', 9),
    'losses': ('losses/test_losses_docs.py', 3),
    'planted': ('studies/test_settle.py', 1),
    'problems': ('models/test_smollm2.py', 1),
}


def blocks(page, language):
    return re.findall(rf'^ *```{language}\n(.*?)^ *```', page.read_text(), re.DOTALL | re.MULTILINE)


def commands(text, behind='python -m'):
    """Yields launcher and arguments of each command in shell text, or in a line of prose.

    Args:
        text: what may have commands, lines continued by backslashes.
        behind: pattern of what stands in front of a launcher, with a space between.
    """
    for line in text.replace('\\\n', ' ').splitlines():
        for words in re.findall(rf'(?:{behind}) experiments\.([^`|&]*)', line):
            if not re.search(r'\.\.\.|…|NAME', words):  # what stands for any command
                yield shlex.split(words, comments=True)


def texts(page):
    """Returns what may have commands: blocks of shell, and code in prose, on one line each."""
    inline = re.findall(r'`(python -m experiments\.[^`]*)`', page.read_text())
    return [*blocks(page, 'bash'), *(text.replace('\n', ' ') for text in inline)]


@pytest.fixture(scope='module')
def told():
    found = {}
    for page in PAGES:
        for text in texts(page):
            for words in commands(text, STARTERS):
                found[f'{page.stem}-{len(found)}'] = words
    return found


def test_every_command_is_understood_by_its_launcher(told, tmp_path):
    checked = {name: [*words, '--only_check_args'] for name, words in told.items()}
    assert len(checked) > 20
    assert sum(name.startswith('cloud-') for name in checked) > 4
    outcomes = run_in_turn(checked, tmp_path)
    wrong = {' '.join(told[k]): o.err for k, o in outcomes.items() if o.code}
    assert not wrong


def test_a_flag_that_is_gone_would_be_noticed(tmp_path):
    (outcome,) = run_launchers(
        {'gone': ['report', '--no_such_flag=1', '--only_check_args']}, tmp_path, at_once=1
    ).values()
    assert outcome.code == 1
    assert 'there is no flag --no_such_flag' in outcome.err


def test_every_recipe_that_is_named_is_there():
    for page in PAGES:
        for recipe in re.findall(r'experiments/recipes/[a-z0-9_]+\.flags', page.read_text()):
            assert (ROOT / recipe).exists(), (page, recipe)


def test_the_first_page_is_short():
    assert len(PAGES[0].read_text().splitlines()) < 150


@pytest.mark.parametrize('number', range(len(blocks(PAGES[0], 'python'))))
def test_the_programs_of_the_first_page_run(number, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(blocks(PAGES[0], 'python')[number], 'README.md', 'exec'), {})


def test_every_program_of_a_page_is_run_by_a_test():
    programs = {page.stem: n for page in PAGES if (n := len(blocks(page, 'python')))}
    assert programs == {page: number for page, (_, number) in PROGRAMS.items()}
    for page, (test, _) in PROGRAMS.items():
        assert f"'{page}.md'" in (ROOT / 'tests' / test).read_text(), (page, test)
