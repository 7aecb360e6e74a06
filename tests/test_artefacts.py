"""The page is held against real files where they are made; here, that the comparison can fail."""

import re

import pytest
from artefacts import DOC, TYPES, disagreements, fields

START = {
    'version': 1,
    'seeds': [0, 1],
    'unseen': [0.5, 0.25],
    'share': [1.0, 0],
    'perplexity': [None, 3.5],
    'others': [None, None],
}


def test_a_file_as_documented():
    assert disagreements('results/start_START.json', START) == []


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        ({'seen': [0.5]}, ['seen.[] is not on the page']),
        ({'unseen': []}, ['unseen.[] is on the page alone']),
        ({'unseen': [50.0]}, ['unseen.[] is 50.0, on the page it is part']),
        ({'share': [None]}, ['share.[] is None, on the page it is part']),
        ({'share': 0.5}, ['share is not on the page', 'share.[] is on the page alone']),
        ({'version': '1'}, ["version is '1', on the page it is count"]),
    ],
)
def test_a_field_more_a_field_less_and_another_type(change, found):
    assert disagreements('results/start_START.json', START | change) == found


def test_what_stands_for_any_and_what_may_lack():
    row = {'step': 3, 'time': 1.5, 'faithfulness': 2.0, 'evaluation/accuracy': None}
    assert disagreements('metrics.jsonl', row) == []
    assert disagreements('metrics.jsonl', row | {'accuracy': 2.0}) == [
        'accuracy is 2.0, on the page it is part'
    ]
    assert disagreements('metrics.jsonl', {'step': 3}) == ['time is on the page alone']


def test_every_table_has_types_that_are_known():
    text = DOC.read_text()
    sections = re.findall(r'^## (.+)\n(?:(?!## ).*\n)*?\| field \|', text, re.M)
    assert len(sections) >= 12
    for section in sections:
        for kind in fields(section).values():
            assert kind.removeprefix('optional ').removesuffix('?') in TYPES, (section, kind)


def test_links_lead_to_sections():
    text = DOC.read_text()
    headings = re.findall(r'^## (.+)', text, re.M)
    anchors = {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}
    assert set(re.findall(r'\(#([^)]*)\)', text)) <= anchors
