"""The first line of a run: how long a recipe says that it takes, however it is named."""

import pytest

from experiments.announce import how_long

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
                  ['--flagfile=~/mine.flags', '--steps=9']):  # fmt: skip
        assert how_long(['pipeline', *words]) == told


def test_other_words_are_no_recipe(recipe):
    for words in ([], ['--flagfile'], [f'--workdir=flagfile={recipe}'], [str(recipe)]):
        assert how_long(['pipeline', *words]) == UNKNOWN
