"""The page: well-formed, whole without a network, and there for every shape of results."""

import json
import re
from html.parser import HTMLParser

import pytest
from synthetic_results import CONFIG, HISTORY, make_results, make_start, make_study

from cdjax.circuits.methods import LEARNED, METHODS, Method
from cdjax.distillation.arms import ARMS
from cdjax.errors import InputError
from cdjax.report.svg import PALETTE
from cdjax.report.terminal import WIDTH, summary
from cdjax.report.write import read_results, render, write_report
from cdjax.run.results import to_text

VOID = {'meta', 'br', 'hr', 'img', 'link', 'input'}
FIRST = {'unseen': [0.3, 0.3, 0.3], 'share': [0.3, 0.3, 0.3]}
SHAPES = {
    'two starts': {
        'starts': {'nothing': make_start({}), 'partial': make_start({}, first=FIRST)},
    },
    'partial start, one class, nothing rediscovered': {
        'starts': {'partial': make_start({}, first=FIRST)},
        'study': make_study(classes=1),
        'rediscovery': (),
    },
    'one seed, an empty class': {
        'starts': {'nothing': make_start({}, seeds=(0,))},
        'study': make_study(empty=(1,)),
    },
    'without kd, no other method': {
        'starts': {'nothing': make_start({}, arms=('all', 'circuits'))},
        'study': make_study(methods=()),
        'rediscovery': ('circuits',),
    },
    'kd alone, no history, many classes and layers': {
        'starts': {'nothing': make_start({}, arms=('kd',))},
        'study': make_study(classes=20, layers=32),
        'rediscovery': ('kd',),
    },
}
LARGEST = 'kd alone, no history, many classes and layers'


class Page(HTMLParser):
    """Reads a page, checking that its elements nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.links, self.text = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        self.links += [attributes[a] for a in ('href', 'src', 'srcset') if a in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f'</{tag}> at {self.getpos()}'

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope='module')
def pages():
    return {
        name: render(make_results(**shape), CONFIG, [] if name == LARGEST else HISTORY)
        for name, shape in SHAPES.items()
    }


@pytest.fixture(scope='module')
def parsed(pages):
    return {name: Page(text) for name, text in pages.items()}


@pytest.mark.parametrize('name', SHAPES)
def test_every_shape_of_results_makes_a_whole_page(parsed, name):
    page = parsed[name]
    assert len(page.all('h2')) == 9 + 2, 'two of studies'
    assert sum('finding' in p.get('class', '') for p in page.all('p')) == 10 + len(
        SHAPES[name].get('starts', 'n')
    )
    assert len(page.all('svg')) == len(page.all('figure')) >= 5
    assert all(svg['role'] == 'img' and len(svg['aria-label']) > 40 for svg in page.all('svg'))
    assert all('scope' in th for th in page.all('th'))
    assert len(page.all('caption')) == len(page.all('table'))
    text = ' '.join(page.text)
    for wrong in ('nan', 'None', 'Undefined', '{{'):
        assert not re.search(rf'\b{wrong}\b', text.split('The whole configuration')[0]), wrong


def test_a_study_has_a_section_and_that_of_a_stranger_says_how_to_see_it(pages):
    page = pages['two starts']
    assert (
        'The number of classes matters most at 5\u00a0% of the neurons, where 4\u00a0classes keep '
        '72\u00a0% and 1 51\u00a0% (+21.0 points, 95 % interval by seed +8.3 to +33.7), more than '
        'seeds explain.'
    ) in page
    assert 'The module that added the study &#39;gone&#39; is not imported' in page


@pytest.mark.parametrize('name', SHAPES)
def test_nothing_is_fetched(pages, parsed, name):
    page = parsed[name]
    assert all(link.startswith('#') for link in page.links)
    assert not page.all('script')
    assert not page.all('link')
    assert 'http' not in pages[name]
    assert '@import' not in pages[name]
    assert all(target.startswith('#') for target in re.findall(r'url\(([^)]*)\)', pages[name]))


def test_identities_are_unique_and_all_references_lead_somewhere(pages, parsed):
    page = parsed['two starts']
    ids = [attributes['id'] for _, attributes in page.elements if 'id' in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', pages['two starts'])
    assert targets
    assert set(targets) <= set(ids)


def test_figures_are_small_and_follow_the_page(pages):
    figures = re.findall(r'<svg.*?</svg>', pages['two starts'], re.DOTALL)
    assert max(map(len, figures)) < 150_000
    assert not any(colour in figure for figure in figures for colour in PALETTE.values())
    assert all('var(--ink)' in figure or 'var(--muted)' in figure for figure in figures)
    many = re.findall(r'<svg.*?</svg>', pages[LARGEST], re.DOTALL)
    assert max(map(len, many)) < 400_000


def test_text_from_outside_is_escaped():
    results = make_results(**SHAPES['one seed, an empty class'])
    results['data']['example'] = '<b>&"'
    results['data']['left_out'] = {'<script>': 3}
    page = render(
        results, {**CONFIG, 'inputs': {**CONFIG['inputs'], 'teacher': '</style><i>'}}, HISTORY
    )
    assert '<b>' not in page
    assert '<script>' not in page
    assert '<i>' not in page


def test_numbers_of_the_run_are_on_the_page(pages):
    text = pages['two starts'].replace('\u00a0', ' ')
    ours = make_study()['curves'][LEARNED.key][3]
    assert f'{100 * ours["only"]:.1f} %' in text
    for run in make_start({})['runs']:
        assert f'{100 * run["unseen"]:.1f}' in text
    assert '9,000: the answer is below 0' in text


def test_every_method_and_arm_has_a_name_and_a_colour():
    for entry in (*METHODS.values(), *ARMS.values()):
        assert entry.colour in PALETTE or re.fullmatch('#[0-9a-f]{6}', entry.colour), entry.key


def test_a_method_of_a_users_own_is_shown_also_where_it_is_not_registered():
    mine = Method('mine', 'my own way', 'my own way of choosing', '#123456', scores=print)
    METHODS.add(mine)
    try:
        results = make_results(study=make_study(methods=('mine', 'random_masks')))
    finally:
        METHODS.remove('mine')
    page = render(results, CONFIG, HISTORY)
    figure = re.search(r'<svg.*?</svg>', page, re.DOTALL)[0]
    assert '#123456' in figure
    assert '>my own way<' in figure
    assert '<th scope="row">my own way</th>' in page
    assert 'my own way of choosing (' in page
    assert 'my own way ' in summary(results)


@pytest.mark.parametrize('name', SHAPES)
def test_summary_fits_the_terminal(name):
    results = make_results(**SHAPES[name])
    lines = summary(results).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert '\u00a0' not in ''.join(lines)
    for arm in results['starts'].values():
        for row in arm['table']:
            (line,) = [
                line
                for line in lines
                if line.startswith(f'{row["title"]} ') and f'{100 * row["mean"]:.1f}' in line
            ][:1]
            assert all(f'{100 * a:.1f}' in line for a in row['accuracies'])


def test_summary_of_ten_seeds_fits_and_says_what_it_hides():
    results = make_results(starts={'nothing': make_start({}, seeds=range(10))})
    text = summary(results)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert 'the first 5 of 10 seeds' in text


def test_write_report_and_read_results(tmp_path, pages):
    with pytest.raises(InputError, match=r'results.json does not exist.*experiments.pipeline'):
        read_results(tmp_path)
    results = make_results(**SHAPES['without kd, no other method'])
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    (tmp_path / 'results.json').write_text(to_text(results))
    folder = tmp_path / 'stages' / 'discover' / 'teacher'
    folder.mkdir(parents=True)
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(p) + '\n' for p in HISTORY))
    path = write_report(tmp_path, read_results(tmp_path))
    assert path.name == 'report.html'
    # Drawn anew, and yet the same.
    assert path.read_text() == pages['without kd, no other method']
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []
    (tmp_path / 'results.json').write_text('{')
    with pytest.raises(InputError, match='is damaged, no JSON'):
        read_results(tmp_path)
