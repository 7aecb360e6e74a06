"""The first line of a run: how long a recipe says that it takes, however it is named."""

import pytest

from cdjax.parallel import one_device
from cdjax.studies.outlook import Outlook, Stage
from cdjax.wording import NBSP
from experiments.announce import first_line, how_long

UNKNOWN = 'the time that is left is told on the way'


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    path = tmp_path / 'mine.flags'
    path.write_text('# Mine.\n# Time: 7 minutes on two cores.\n--steps=5\n')
    return path


def test_a_recipe_is_known_in_every_way_that_flags_are_written(recipe):
    told = 'mine.flags says: 7 minutes on two cores'
    for words in ([f'--flagfile={recipe}'], [f'-flagfile={recipe}'], ['--flagfile', str(recipe)],
                  ['--flagfile=~/mine.flags', '--dry_run', '--workdir=x']):  # fmt: skip
        assert how_long(['pipeline', *words]) == told


def test_the_time_is_that_of_the_recipe_as_it_stands(recipe):
    words = ['pipeline', f'--flagfile={recipe}', '--steps=9', '--workdir', 'x']
    assert how_long(words) == 'as mine.flags stands: 7 minutes on two cores'
    command = '# Command: python -m experiments.pipeline --flagfile=mine.flags --steps=N\n'
    recipe.write_text(command + recipe.read_text())
    assert how_long(words) == 'mine.flags says: 7 minutes on two cores', 'a flag that it asks for'
    assert how_long([*words, '--seeds=1,2']).startswith('as mine.flags stands')


def test_searches_that_are_not_counted_are_told_of(tmp_path):
    stages = (Stage('discover', steps=7), Stage('study', steps=None), Stage('measure'))
    line = first_line(Outlook('pipeline', tmp_path, {}, stages, one_device())).replace(NBSP, ' ')
    assert line.startswith('pipeline: 1 training of 7 steps, besides the searches of 1 stage, on ')


def test_a_finished_run_takes_no_time(recipe, monkeypatch):
    monkeypatch.setattr('sys.argv', ['distill', f'--flagfile={recipe}'])
    for done, told in ((True, 'all of it is done, on'), (False, 'mine.flags says: 7 minutes')):
        stages = (Stage('distill', steps=5, done=done),)
        line = first_line(Outlook('distill', recipe.parent, {}, stages, one_device()))
        assert line.startswith('distill: 1\u00a0training of 5\u00a0steps in all, ')
        assert told in line
        assert ('7 minutes' in line) != done


def test_other_words_are_no_recipe(recipe):
    for words in ([], ['--flagfile'], [f'--workdir=flagfile={recipe}'], [str(recipe)]):
        assert how_long(['pipeline', *words]) == UNKNOWN
