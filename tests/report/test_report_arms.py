"""The page of a table of arms, which has no circuits to show, and what it is made of."""

import json
import re

import pytest
from absl import flags
from synthetic_results import CONFIG, PROVENANCE, make_results, make_start
from test_report_write import Page

from cdjax.errors import InputError
from cdjax.report.arms_report import holds_table, read_table, render_arms, table_page
from cdjax.report.tables import steps_rows
from cdjax.report.terminal_students import arms_table
from cdjax.run.results import to_text
from cdjax.studies.mechanism import MEASURES, summarise_mechanism

# Of a table config.json has neither arms nor seeds, to which more may be added.
ARMS = {key: value for key, value in CONFIG['arms'].items() if key not in ('arms', 'seeds')}
OF_TABLE = {**CONFIG, 'name': 'compare_arms', 'arms': ARMS}
PRIMARY = {
    'arm': 'circuits',
    'against': 'random',
    'endpoint': 'unseen',
    'seeds': [0, 1, 2],
    'difference': 0.1,
    'interval': [0.05, 0.15],
    'p': 0.01,
    'p_equivalent': 0.9,
    'analysis': 'ab' * 8,
}


WEIGHTS = {
    'problems': 1500,
    'knowable': 0.8,
    'seeds': [1000, 1001],
    'arms': [
        {
            'arm': arm,
            'chosen': chosen,
            'tried': [
                {'weight': weight, 'score': [mean, mean], 'mean': mean, 'error': 0.0}
                for weight, mean in ((0.3, 0.512), (1.0, 0.634))
            ],
        }
        for arm, chosen in (('circuits', 1.0), ('random', 0.3))
    ],
}


def make_table():
    """Returns a start with all that a table can tell, JSON in between."""
    start = make_start({'circuits': 0.1}, base=0.95) | {'primary': PRIMARY, 'weights': WEIGHTS}
    told = {key: 0.5 for key in MEASURES} | {'faithful': True}
    found = {(run['arm'], run['seed']): told for run in start['runs']}
    start['mechanism'] = summarise_mechanism(start['runs'], found)
    return make_results(starts={'nothing': start})['starts']


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / 'table'
    folder.mkdir()
    (folder / 'arms.json').write_text(to_text({'starts': make_table()}))
    (folder / 'config.json').write_text(json.dumps(OF_TABLE))
    (folder / 'provenance.json').write_text(json.dumps(PROVENANCE))
    return folder


def test_a_table_of_arms_has_a_page_of_its_own(workdir):
    text = table_page(workdir, read_table(workdir))
    page = Page(text)
    ids = [attributes['id'] for _, attributes in page.elements if 'id' in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(ids)
    assert [a['id'] for a in page.all('h2')] == [
        'summary', 'run', 'training', 'arms', 'moved', 'reading'
    ]  # fmt: skip
    assert [a['id'] for a in page.all('figure')] == [
        f'figure-{name}-nothing' for name in ('arms', 'dots', 'problems', 'costs', 'mechanism')
    ]
    told = ' '.join(' '.join(page.text).replace('\u00a0', ' ').split())
    for shown in (
        'Decided beforehand (analysis abababababababab)',
        'p, Holm',
        'Headroom: how alike',
        'Steps until 80 %',
        'share the circuits of one discovery in one teacher',
        'weight chosen for each arm, temperature',
        'accuracy in per cent on 1,500 problems of training forms outside the share',
        '80.0 % of these problems can be known from the share',
        'started 2 times in all',
        'python -m experiments.compare_arms with the same values',
        '"seeds": [ 0, 1, 2 ]',
    ):
        assert shown in told, shown
    bold = re.findall(r'(<b>)?(51\.2|63\.4)(?:</b>)?</td>', text)
    assert bold == [('', '51.2'), ('<b>', '63.4'), ('<b>', '51.2'), ('', '63.4')]
    for wrong in ('None', 'Undefined', '{{', 'Model family'):
        assert wrong not in told, wrong
    assert all(link.startswith(('#', 'data:')) for link in page.links)


@pytest.mark.parametrize('seeds', [(0,), (0, 1)])
def test_a_table_of_few_arms_has_a_page_too(seeds):
    start = make_start({}, seeds=seeds, arms=('all', 'circuits'))
    for absent in ('costs', 'equal_flops', 'by_problems'):  # of an older one
        del start[absent]
    page = Page(render_arms(make_results(starts={'nothing': start})['starts'], OF_TABLE))
    assert 'moved' not in [a['id'] for a in page.all('h2')]
    assert not re.search(r'\b(nan|None|Undefined)\b', ' '.join(page.text).split('The whole')[0])


def test_what_is_no_table_is_refused(workdir, tmp_path):
    assert holds_table(workdir)
    assert not holds_table(tmp_path / 'nothing')
    (workdir / 'config.json').write_text(json.dumps(CONFIG))
    with pytest.raises(InputError, match=r'arms.json without the config.json of a table of arms'):
        table_page(workdir, read_table(workdir))
    (workdir / 'arms.json').write_text('[]')
    with pytest.raises(InputError, match=r'arms.json is damaged'):
        read_table(workdir)
    (workdir / 'results.json').write_text('{}')
    assert not holds_table(workdir), 'a pipeline is one, whatever else is there'


@pytest.mark.usefixtures('undrawn')
def test_the_launcher_makes_the_page_and_takes_its_figures(workdir, tmp_path, capsys):
    from experiments import report

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(['report'])
    saved = {name: flags.FLAGS[name].value for name in ('output', 'figure')}
    try:
        flags.FLAGS.figure = 'mechanism-nothing-1'
        flags.FLAGS.output = str(tmp_path / 'moved.svg')
        report.main(str(workdir))
        told = capsys.readouterr().out
        assert arms_table(make_table()) in told
        assert 'Mechanism of students from nothing' in told
        lines = [line.split()[-3:] for line in told.splitlines()]
        assert ['0.3', '1', 'chosen'] in lines
        assert ['51.2', '63.4', '0.3'] in lines
        assert '<title>mechanism-nothing-1</title>' in (tmp_path / 'moved.svg').read_text()
        assert (workdir / 'report.html').read_text().startswith('<!doctype html>')
        (workdir / 'report.html').unlink()
        flags.FLAGS.figure = 'nope'
        with pytest.raises(InputError, match='figure=nope is not in the report: choose from'):
            report.main(str(workdir))
        assert not (workdir / 'report.html').exists(), 'refused before anything is written'
        flags.FLAGS.figure = flags.FLAGS.output = None
        with pytest.raises(InputError, match=r'results.json does not exist.* or experiments.comp'):
            report.main(str(tmp_path))
    finally:
        for name, value in saved.items():
            flags.FLAGS[name].value = value


def test_steps_are_compared_where_every_student_gets_there():
    row = lambda arm, *steps: {
        'arm': arm, 'title': arm, 'seeds': [0, 1], 'steps_to_reach': list(steps)
    }  # fmt: skip
    rows = steps_rows(
        {'table': [row('kd', 200, 300), row('all', 100, 240), row('circuits', 90, None)]}
    )
    kd, both, one = rows
    assert (kd['steps'], kd['reached'], kd['difference']) == (250, 2, None)
    # Differences -100 and -60: mean -80, half a width of 12.706 standard errors, of 20 each.
    assert both['difference'].value == pytest.approx(-80)
    assert both['difference'].interval == pytest.approx((-80 - 254.1, -80 + 254.1), rel=1e-3)
    assert (one['steps'], one['reached'], one['seeds'], one['difference']) == (None, 1, 2, None)
    assert steps_rows({'table': [row('kd', None, None)]}) == []
    start = make_start({}, arms=('kd', 'all'), seeds=(0, 1), base=0.9, spread=0)
    shown = arms_table({'nothing': start})
    steps = next(line for line in shown.splitlines() if line.startswith('Steps to 80 %'))
    assert 'minus KD' in steps
    kept = make_start({}, arms=('kd', 'all'), seeds=(0, 1), base=0.1, spread=0)
    assert 'No student reaches 80 % of unseen problems.' in arms_table({'nothing': kept})
