"""Recipes: each says what it is, how it is run, how long, in how much memory, and to what end."""

import re
import shlex

import pytest
from launchers import ROOT

RECIPES = sorted((ROOT / 'experiments/recipes').glob('*.flags'))


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_a_header_has_four_answers(recipe):
    text = recipe.read_text()
    header, flags = re.fullmatch(r'((?:# .*\n)+)((?:--.*\n)+)', text).groups()
    told = dict(re.findall(r'^# (\w+): +(.+)$', header, re.M))
    assert [*told] == ['Command', 'Time', 'Memory', 'Result']
    assert header.startswith('# ')
    assert not header.startswith('# Command'), 'what it is stands first'
    python, dash, launcher, flagfile, *_ = shlex.split(told['Command'])
    assert (python, dash) == ('python', '-m')
    assert (ROOT / launcher.replace('.', '/')).with_suffix('.py').exists()
    assert flagfile == f'--flagfile={recipe.relative_to(ROOT)}'
    assert re.search(r'second|minute|hour|not measured', told['Time'])
    assert re.search(r'\d GB|experiments\.plan', told['Memory'])
    assert '--workdir=runs/' in flags


def test_the_tables_of_the_docs_have_recipes():
    pages = ('results', 'discovery', 'planted')
    text = ''.join((ROOT / f'docs/{page}.md').read_text() for page in pages)
    named = {recipe.name for recipe in RECIPES if recipe.name in text}
    assert named >= {'arms.flags', 'arms_partial.flags', 'start_memorises.flags'}
    assert named >= {'one_mask.flags', 'four_classes.flags', 'planted_lookup.flags'}
