"""Recipes name flags that there are, and say beforehand what a run takes and is to answer."""

import re
import shlex
from pathlib import Path

import pytest

from cdjax.training.optimizer import OptimizerConfig

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / 'experiments' / 'recipes').glob('*.flags'))
# Some are defined in a loop over names.
DEFINED = {
    name
    for file in (ROOT / 'experiments').rglob('*.py')
    if 'DEFINE_' in file.read_text()
    for name in re.findall(r"'(\w+)'", file.read_text())
}


def flags_of(recipe):
    lines = [line for line in recipe.read_text().splitlines() if line.startswith('--')]
    pairs = (line.removeprefix('--').partition('=') for line in lines)
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_a_header_has_four_answers(recipe):
    text = recipe.read_text()
    header, flags = re.fullmatch(r'((?:#.*\n)+)((?:--.*\n)+)', text).groups()
    told = dict(re.findall(r'^# (\w+): +(.+)$', header, re.M))
    assert [*told] == ['Command', 'Time', 'Memory', 'Result']
    assert header.startswith('# ')
    assert not header.startswith('# Command'), 'what it is stands first'
    python, dash, launcher, flagfile, *_ = shlex.split(told['Command'])
    assert (python, dash) == ('python', '-m')
    assert (ROOT / launcher.replace('.', '/')).with_suffix('.py').exists()
    assert flagfile == f'--flagfile={recipe.relative_to(ROOT)}'
    assert re.search(r'second|minute|hour', told['Time'])
    assert re.search(r'\d GB|experiments\.plan', told['Memory'])
    for name in ('Time', 'Memory'):
        assert not re.search('not measured|estimate', told[name]), (name, told[name])
    assert '--workdir=runs/' in flags or launcher in (
        'experiments.evaluate',
        'experiments.accuracy',
    )


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_every_flag_of_a_recipe_is_defined_somewhere(recipe):
    unknown = [
        name
        for name in flags_of(recipe)
        if name not in DEFINED and name.removeprefix('no') not in DEFINED
    ]
    assert not unknown


@pytest.mark.parametrize('pair', ['llama31_8b_to_llama32_1b', 'llama3_70b_to_8b'])
def test_a_pair_of_llamas_has_the_published_settings(pair):
    given = flags_of(ROOT / 'experiments' / 'recipes' / f'{pair}.flags')
    published = {'learning_rate': 1e-4, 'batch_size': 32, 'temperature': 2, 'weight': 0.01}
    assert {name: float(given[name]) for name in published} == published
    assert OptimizerConfig(1).clip_norm == 1
    assert given['arms'].split(',') == ['kd', 'all', 'circuits', 'random', 'wrong']
    assert given['starts'] == 'checkpoint'


def test_the_primary_table_is_decided_beforehand():
    given = flags_of(ROOT / 'experiments' / 'recipes' / 'arms_planted.flags')
    assert set(given['primary'].split(',')) <= set(given['arms'].split(','))
    assert len(given['seeds'].split(',')) == 12, 'fewer detect too little'


# Tables of definitions, of which nothing was measured: page and first cells of their heads.
DEFINITIONS = {
    ('checkpoints', 'in the file'),
    ('cloud', 'slice'),
    ('discovery', 'method'),
    ('evaluation', 'name'),
    ('losses', 'function'),
    ('method', 'term'),
    ('plan', '`--target`'),
    ('planted', 'recipe'),
}


def measured_tables():
    """Yields page, head and the text of the section of every table that is mostly figures."""
    for page in sorted((ROOT / 'docs').glob('*.md')):
        for section in re.split(r'^(?=## )', page.read_text(), flags=re.M):
            for head, body in re.findall(r'^\|(.*)\|\n\|[-: |]+\|\n((?:\|.*\n)+)', section, re.M):
                if len(re.findall(r'\d\.?\d', body)) >= body.count('\n'):
                    yield page.stem, head.split('|')[0].strip(), section


def test_every_measured_table_has_a_recipe_or_one_command():
    without = [
        (page, first)
        for page, first, section in measured_tables()
        if (page, first) not in DEFINITIONS
        and not re.search(
            r'experiments/recipes/\w+\.flags|`make demo`|experiments\.(benchmark|plan) '
            r'|tests/faults/campaign\.py',
            section,
        )
    ]
    assert without == []
    assert len([*measured_tables()]) > 40


def test_every_recipe_is_told_of_by_a_page():
    pages = [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]
    text = ''.join(page.read_text() for page in pages)
    assert [recipe.name for recipe in RECIPES if recipe.name not in text] == []
