"""How alike the targets of arms are, on the terminal."""

import re

import pytest
from synthetic_results import CONFIG, HISTORIES, make_headroom, make_results, make_start

from cdjax.distillation.arms import ARMS
from cdjax.report.headroom import headroom_table
from cdjax.report.terminal import summary
from cdjax.report.terminal_students import WIDTH
from cdjax.report.write import render

FEW = ('all', 'circuits', 'random')
VALUES = {('all', 'circuits'): 0.5, ('circuits', 'random'): 0.98, ('all', 'random'): -0.04}


def table(arms=FEW, values=VALUES, primary=None):
    return headroom_table({'nothing': {'headroom': make_headroom(arms, values)}}, primary)


def test_every_two_arms_are_in_the_table_once():
    assert table().splitlines() == [
        'Headroom, starting from nothing: CKA of the targets of every two arms',
        '                          1     2',
        '   1  all neurons',
        '   2  class circuits   0.50',
        '   3  random masks    −0.04  0.98',
    ]
    assert table(('all',)) == ''


def test_of_more_arms_than_fit_those_beside_the_class_circuits():
    arms = [key for key, arm in ARMS.items() if arm.align is not None]
    values = {('circuits', arm): 0.01 * i for i, arm in enumerate(arms)}
    text = table(arms, values)
    assert 'CKA with the target of class circuits' in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert len(text.splitlines()) == len(arms)
    assert re.search(rf'{ARMS["wrong"].phrase} +{values["circuits", "wrong"]:.2f}\n', text)


@pytest.mark.parametrize(
    ('primary', 'told'),
    [
        (('circuits', 'all'), 'circuits and all: CKA 0.50'),
        (('circuits', 'random'), 'CKA 0.98, above 0.70: students can hardly tell the two apart'),
        (('circuits', 'kd'), 'none, for kd aligns no activations'),
    ],
)
def test_the_headroom_of_the_primary_comparison_is_always_told(primary, told):
    text = table(primary=primary).replace('\n', ' ')
    assert f'Headroom of the primary comparison, {primary[0]} and {primary[1]}: ' in text
    assert told in text
    alone = table(('circuits',), {}, primary=('circuits', 'kd'))
    assert alone.startswith('Headroom of the primary comparison, circuits and kd: none, for kd')


def test_the_primary_comparison_of_arms_that_are_told_apart_otherwise():
    text = table(FEW, {}, ('all', 'circuits')).replace('\n', ' ')
    assert 'none, for they differ in how they compare or in classes' in text


def test_a_pipeline_tells_the_headroom_of_its_primary_comparison():
    start = make_start({})
    start['primary'] = {
        **{'arm': 'circuits', 'against': 'random', 'seeds': [0], 'difference': 0.01},
        **{'interval': None, 'p': None, 'p_equivalent': None, 'analysis': 'a1b2'},
    }
    text = summary(make_results(starts={'nothing': start}))
    assert 'Headroom of the primary comparison, circuits and random: CKA 0.90' in text


PATCHES = [
    {'arm': 'interchange', 'other': None, 'agreement': 0.54, 'moved': 0.61, 'same': None},
    {'arm': 'interchange_random', 'other': None, 'agreement': 0.71, 'moved': 0.33, 'same': None},
    {
        **{'arm': 'interchange', 'other': 'interchange_random'},
        **{'agreement': 0.81, 'moved': 0.72, 'same': 0.04},
    },
]


@pytest.mark.usefixtures('undrawn')
def test_what_columns_contribute_and_patches_change_stands_beside_it():
    contribution = {'circuits': 1.0, 'random_equal': 0.874, 'wrong': None}
    told = 'circuits 1.00, random neurons of equal contribution 0.87, other classes’ circuits –'
    start = make_start({}) | {'contribution': contribution, 'patches': PATCHES}
    results = make_results(starts={'nothing': start})
    text = headroom_table({'nothing': start})
    assert text in summary(results)
    assert max(map(len, text.splitlines())) <= WIDTH
    page = re.sub(r'<[^>]*>', ' ', render(results, CONFIG, HISTORIES))
    for shown in (text, page):
        assert told in ' '.join(shown.split())
        row = r'interchange of specific parts and interchange of random neurons +0.81 +0.72 +0.04'
        assert re.search(row, shown)
        assert re.search(r'interchange of specific parts and no patch +0.54 +0.61 +–', shown)
    checked = re.search(
        r'ask students for different things\? +(\w+) +the targets of (.*?) of', page
    )
    close = len(start['headroom']) * (len(start['headroom']) - 1) // 2
    assert checked.groups() == ('some', f'{close}')


@pytest.mark.parametrize(
    ('same', 'told'),
    [
        (0.04, 'answers agree to 0.81, and are the same in 0.04 of those that a patch changes'),
        (0.9, 'in 0.90 of those that a patch changes: students can hardly tell the two apart'),
        (None, 'in – of those that a patch changes: students can hardly tell the two apart'),
    ],
)
def test_the_primary_comparison_of_two_arms_of_interchange(same, told):
    start = {'headroom': {}, 'patches': [*PATCHES[:2], PATCHES[2] | {'same': same}]}
    text = headroom_table({'nothing': start}, ('interchange_random', 'interchange'))
    assert text.replace('\n', ' ').endswith(told)
