"""The page: well-formed, whole without a network, and there for every shape of results."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic_results import (
    CONFIG,
    HISTORIES,
    HISTORY,
    PROVENANCE,
    make_headroom,
    make_neurons,
    make_results,
    make_start,
    make_study,
)

from cdjax.circuits.methods import LEARNED, METHODS, Method
from cdjax.colours import PALETTE
from cdjax.distillation.arms import ARMS
from cdjax.errors import InputError
from cdjax.report.chart import share_axis
from cdjax.report.figure_file import take_figure
from cdjax.report.method_curves import method_curves
from cdjax.report.neuron_cards import neuron_cards
from cdjax.report.selectivity_curves import selectivity_front
from cdjax.report.terminal import summary
from cdjax.report.terminal_students import WIDTH
from cdjax.report.write import read_results, render, write_report
from cdjax.run.results import to_text

VOID = {'meta', 'br', 'hr', 'img', 'link', 'input'}
TEN_MEGABYTES = 10_000_000
ROOT = Path(__file__).parents[2]
NUMBER = r'[+−]?\d+\.\d+'
FIRST = {'unseen': [0.3] * 3, 'share': [0.3] * 3, 'perplexity': [None] * 3, 'others': [0.8] * 3}
SHAPES = {
    'two starts': {
        'starts': {'nothing': make_start({}), 'partial': make_start({}, first=FIRST)},
    },
    'partial start of one seed without kd, one class': {
        'starts': {
            'partial': make_start(
                {},
                seeds=(0,),
                first={key: values[:1] for key, values in FIRST.items()},
                arms=('all', 'circuits'),
            )
        },
        'study': make_study(classes=1),
        'rediscovery': ('circuits',),
    },
    'kd alone, no history, many classes, one empty, and layers, no other method': {
        'starts': {'nothing': make_start({}, arms=('kd',))},
        'study': make_study(classes=20, layers=32, methods=(), empty=(1,)),
        'rediscovery': (),
    },
}
WITHOUT_KD, LARGEST = list(SHAPES)[1:]


class Page(HTMLParser):
    """Reads a page, checking that its elements nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.links, self.text = [], [], [], []
        self.files = {}
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        self.links += [attributes[a] for a in ('href', 'src', 'srcset') if a in attributes]
        if 'download' in attributes:
            self.files[attributes['download']] = attributes['href']
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
def pages(drawn_once):
    return {
        name: render(
            make_results(**shape), CONFIG, {} if name == LARGEST else HISTORIES, PROVENANCE
        )
        for name, shape in SHAPES.items()
    }


@pytest.fixture(scope='module')
def parsed(pages):
    return {name: Page(text) for name, text in pages.items()}


@pytest.mark.parametrize('name', SHAPES)
def test_every_shape_of_results_makes_a_whole_page(parsed, name):
    page = parsed[name]
    assert len(page.all('h2')) == 11 + 2, 'two of studies'
    starts = len(SHAPES[name]['starts'])
    assert sum(p.get('class') == 'finding' for p in page.all('p')) == 11 + starts
    panels = [svg for svg in page.all('svg') if svg.get('role') == 'img']
    assert len(panels) >= len(page.all('figure')) >= 8
    assert all(len(svg['aria-label']) > 40 for svg in panels)
    assert len({svg['aria-label'] for svg in panels}) == len(panels), 'names tell them apart'
    assert all('scope' in th or not th for th in page.all('th'))
    assert len(page.all('caption')) == len(page.all('table'))
    text = ' '.join(page.text)
    for wrong in ('nan', 'None', 'Undefined', '{{'):
        assert not re.search(rf'\b{wrong}\b', text.split('The whole configuration')[0]), wrong


@pytest.mark.parametrize('name', SHAPES)
def test_every_figure_is_there_as_a_file_with_its_numbers(pages, parsed, name):
    page = parsed[name]
    assert len(pages[name]) < TEN_MEGABYTES
    figures = [figure['id'].removeprefix('figure-') for figure in page.all('figure')]
    assert len(set(figures)) == len(figures)
    for key in figures:
        head, _, body = page.files[f'cdjax-{key}.csv'].partition(',')
        rows = list(csv.reader(unquote(body).splitlines()))
        assert head == 'data:text/csv;charset=utf-8'
        assert len(rows) > 1, key
        assert len({len(row) for row in rows}) == 1 or key.startswith('neuron'), key
    drawn = [file for name, file in page.files.items() if name.endswith('.svg')]
    assert len(drawn) == sum(svg.get('role') == 'img' for svg in page.all('svg'))
    for file in drawn:
        root = ElementTree.fromstring(unquote(file.partition(',')[2]))
        assert root.tag == '{http://www.w3.org/2000/svg}svg'
        assert 'var(' not in file


def test_the_numbers_of_a_figure_are_those_of_the_run(parsed):
    text = unquote(parsed['two starts'].files['cdjax-methods.csv'].partition(',')[2])
    rows = list(csv.DictReader(text.splitlines()))
    study = make_study()
    assert len(rows) == sum(map(len, study['curves'].values()))
    ours = [row for row in rows if row['method'] == 'learned classes']
    for row, share, point in zip(ours, study['shares'], study['curves'][LEARNED.key], strict=True):
        assert float(row['share of neurons']) == share
        assert float(row['only']) == pytest.approx(point['only'])
        assert float(row['only high']) == pytest.approx(point['only_interval'][1])


def test_a_legend_names_series_that_are_drawn(pages, parsed):
    page = parsed['two starts']
    drawn = {a['data-series'] for _, a in page.elements if 'data-series' in a}
    offered = {box['value'] for box in page.all('input') if box.get('name') == 'methods'}
    assert offered == set(make_study()['curves']) <= drawn
    for slug in offered:
        rule = f'#figure-methods:has(input[value="{slug}"]:not(:checked)) [data-series="{slug}"]'
        assert rule in pages['two starts']


def test_every_mark_says_its_value(pages):
    page = pages['two starts']
    at = make_study()['curves'][LEARNED.key][3]
    assert f'<title>learned classes, 15\u00a0%: {100 * at["only"]:.1f}\u00a0%' in page
    cells = re.search(r'data-cells="([^"]*)"', page)[1].replace('&quot;', '"')
    grid = make_neurons()['neurons'][0]['maps']['1-2']
    assert json.loads(cells)['values'] == grid[::-1], 'from the top of the map down'


@pytest.mark.usefixtures('undrawn')
def test_a_run_without_students_speaks_of_none():
    results = make_results(starts={}, rediscovery=())
    results['layer_similarity']['students'] = {}
    alone = {**CONFIG, 'arms': {**CONFIG['arms'], 'arms': [], 'distillation': {}}}
    histories = {'discover/teacher': HISTORY}
    text = render(results, alone, histories)
    page = Page(text)
    titles = [a['id'] for a in page.all('h2')]
    assert not {'arms', 'moved'} & set(titles)
    assert titles.index('training') < titles.index('study-num_classes')
    layers = text.partition('id="layers"')[2].partition('</section>')[0]
    assert 'id="figure-similarity"' in layers
    body = ' '.join(page.text).partition('The whole configuration')[0].lower()
    assert 'student' not in body.replace('student’s 95', '').replace('student’s t', '')
    told = summary(results)
    assert 'Circuits of 4 classes' in told
    assert 'tudent' not in told
    assert 'Starting from' not in told


def test_neurons_and_classes_and_where_it_was_run(pages):
    text = pages['two starts'].replace('\u00a0', ' ')
    assert 'Stands out in class 0; in the circuit of class 0.' in text
    assert 'Shared; in no circuit.' in text
    assert 'operators + −: 75 % <span class="note">(25 % of all)' in text
    assert '<td class="n wrong">7<span class="hidden"> (wrong)</span></td>' in text
    assert 'Class 3: 0 unseen problems</summary>' in text
    assert '<code>python -m experiments.pipeline --seeds=0,1,2</code>' in text
    assert 'started 2 times in all' in text
    assert 'Python 3.12.1, cdjax 0.1.0, jax 0.10.0<' in text
    assert '8 devices (cpu), 2 cores of a processor, Linux' in text
    assert '<th scope="row">discover/teacher</th><td class="n">0</td><td>usage</td>' in text


def test_figures_of_neurons_and_layers_say_what_is_drawn(pages):
    text = pages['two starts']
    cards = re.findall(r'<figure class="card".*?</figure>', text, re.S)
    assert len(cards) == 2
    for card in cards:
        assert '<figcaption>Mean activation over pairs of operands, and by answer, beside' in card
        assert '>mean activation</text>' in card, 'the name of the colour bar'
    panels = text.partition('id="figure-similarity"')[2].partition('</figure>')[0].split('<svg')
    axes = [re.findall(r'>(layer of the \w+)</text>', panel) for panel in panels[1:3]]
    assert axes == [['layer of the teacher'] * 2, ['layer of the student', 'layer of the teacher']]


@pytest.mark.usefixtures('undrawn')
def test_what_a_sceptic_asks_of_neurons_and_arms_is_on_the_page_and_on_the_terminal():
    study = make_study()
    study['minimality']['blocks'][0] |= {'drop': 0.37, 'drop_interval': [0.31, 0.43]}
    start = make_start({'circuits': 0.1})
    alike = {('circuits', 'random'): 0.64, ('circuits', 'wrong'): 0.98}
    start['headroom'] = make_headroom(('circuits', 'random', 'wrong'), alike)
    results = make_results(study=study, starts={'nothing': start})
    page, text = render(results, CONFIG, HISTORIES, PROVENANCE), summary(results)
    cells = re.sub(r'<[^>]*>', ' ', page)
    assert re.search(r'20\s% of their neurons are in tenths', cells)
    assert re.search(r'1 +15 +50\.0\s% +0\.37 +\[0\.31, 0\.43\] +yes', cells)
    assert re.search(r'9 +15 +50\.0\s% +0\.01 +\[0\.00, 0\.45\] +no', cells)
    row = next(row for row in start['table'] if row['arm'] == 'circuits')
    for shown in (cells, text):
        assert re.search(rf'{re.escape(row["title"])} +{row["p"]:.3f} +{row["p_holm"]:.3f}', shown)
        assert re.search(r'2(&ensp;|  )random masks +0\.64\b', shown)
        assert re.search(r'3(&ensp;|  )other classes’ circuits +0\.98 +–', shown)
    assert {'figure-problems-nothing', 'figure-costs-nothing'} <= set(
        re.findall(r'id="(.*?)"', page)
    )
    shift = 100 * (0.7 * (row['mean']) - start['table'][0]['mean'])
    assert f'class circuits with 92 minus KD with 184: {shift:.1f}'.replace('-', '−') in text
    ece = next(told for told in start['costs'] if told['arm'] == 'circuits')['ece']
    assert re.search(rf'class circuits +{ece["mean"]:.3f}  {NUMBER} \[', text)
    assert re.search(r'different things\? +some +the targets of 1 of 3\spairs of arms', cells)
    assert 'Model family Llama' in re.sub(r'\s+', ' ', cells)


@pytest.mark.usefixtures('undrawn')
def test_one_seed_is_not_tested():
    results = make_results(starts={'nothing': make_start({}, seeds=(0,))})
    assert 'Holm' not in summary(results)
    assert 'Holm' not in render(results, CONFIG, HISTORIES)


@pytest.mark.parametrize('scheme', [0, 1], ids=['light', 'dark'])
def test_text_can_be_read(scheme):
    """WCAG 2.2 asks text of this size for a contrast of 4.5 with what lies behind it."""
    style = (ROOT / 'cdjax' / 'report' / 'templates' / 'style.css').read_text()
    pairs = re.findall(r'--(\w+): light-dark\(#(\w{6}), #(\w{6})\)', style)
    colours = {name: both[scheme] for name, *both in pairs}

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for text in ('ink', 'muted', 'blue', 'yes', 'no'):
        for behind in ('paper', 'wash'):
            dark, light = sorted(luminance(colours[name]) for name in (text, behind))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, behind)


def test_a_study_has_a_section_and_that_of_a_stranger_says_how_to_see_it(pages):
    page = pages['two starts']
    assert (
        'The number of classes matters most at 5\u00a0% of the neurons, where 4\u00a0classes keep '
        '72\u00a0% of the answers, and 1\u00a0class 51\u00a0% (+21.0 points, 95 % interval by seed '
        '+8.3 to +33.7), more than seeds explain.'
    ) in page
    assert 'The module that added the study &#39;gone&#39; is not imported' in page


@pytest.mark.parametrize('name', SHAPES)
def test_nothing_is_fetched(pages, parsed, name):
    page = parsed[name]
    assert all(link.startswith(('#', 'data:')) for link in page.links)
    assert not any(script for script in page.all('script'))
    assert not page.all('link')
    text = re.sub(r'href="data:[^"]*"', '', pages[name])
    assert 'http' not in text
    assert '@import' not in text
    assert all(target.startswith('#') for target in re.findall(r'url\(([^)]*)\)', text))


def test_identities_are_unique_and_all_references_lead_somewhere(pages, parsed):
    page = parsed['two starts']
    ids = [attributes['id'] for _, attributes in page.elements if 'id' in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', pages['two starts'])
    assert targets
    assert set(targets) <= set(ids)


def test_figures_are_small_and_follow_the_page(pages):
    figures = re.findall(
        r'<svg viewBox="[^"]*" role="img".*?</svg>', pages['two starts'], re.DOTALL
    )
    assert max(map(len, figures)) < 150_000
    assert not any(colour in figure for figure in figures for colour in PALETTE.values())
    assert all('var(--ink)' in figure or 'var(--muted)' in figure for figure in figures)
    many = re.findall(r'<svg viewBox="[^"]*" role="img".*?</svg>', pages[LARGEST], re.DOTALL)
    assert max(map(len, many)) < 400_000


@pytest.mark.usefixtures('undrawn')
def test_text_from_outside_is_escaped():
    results = make_results()
    results['data']['example'] = '<b>&"'
    results['data']['left_out'] = {'<script>': 3}
    results['problems']['classes'][0]['examples'][0]['only'] = '</td><b>'
    page = render(
        results, {**CONFIG, 'inputs': {**CONFIG['inputs'], 'teacher': '</style><i>'}}, HISTORIES
    )
    assert '<b>' not in page
    assert page.count('<script>') == 1, 'its own'
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


@pytest.mark.usefixtures('undrawn')
def test_a_method_of_a_users_own_is_shown_also_where_it_is_not_registered():
    mine = Method('mine', 'my own way', 'my own way of choosing', '#123456', scores=print)
    METHODS.add(mine)
    try:
        results = make_results(study=make_study(methods=('mine', 'random_masks')))
    finally:
        METHODS.remove('mine')
    page = render(results, CONFIG, HISTORIES)
    figure = re.search(r'<figure id="figure-methods">.*?</figure>', page, re.DOTALL)[0]
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


@pytest.mark.parametrize(('seeds', 'listed'), [(5, False), (12, True), (13, False)])
def test_all_seeds_are_shown_as_far_as_they_fit(seeds, listed):
    first = {key: value[:1] * seeds for key, value in FIRST.items()} | {
        'unseen': [0.01 * (seed + 1) for seed in range(seeds)]
    }
    # Titles of 40 letters leave room for twelve seeds, and not for more.
    start = make_start({}, seeds=range(seeds), first=first, arms=('kd', 'interchange_wrong'))
    text = summary(make_results(starts={'partial': start}))
    assert max(map(len, text.splitlines())) <= WIDTH
    kd = sorted(100 * accuracy for accuracy in start['table'][0]['accuracies'])
    cells = [line.split()[1:] for line in text.splitlines() if line.startswith('KD  ')]
    everyone = [f'{100 * accuracy:.1f}' for accuracy in start['table'][0]['accuracies']]
    if seeds == 5:
        assert cells[0][:5] == everyone
        assert 'before distillation: 1.0 %, 2.0 %' in text
    else:
        assert cells[0][:3] == [f'{x:.1f}' for x in (kd[0], np.median(kd), kd[-1])]
        assert f'accuracy on unseen problems over {seeds} seeds' in text
        assert f'(lowest, median, highest of {seeds} seeds): 1.0 %' in text
    assert (everyone in cells) == listed


def test_write_report_and_read_results(tmp_path, pages):
    with pytest.raises(InputError, match=r'results.json does not exist.*experiments.pipeline'):
        read_results(tmp_path)
    results = make_results(**SHAPES[WITHOUT_KD])
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    (tmp_path / 'results.json').write_text(to_text(results))
    folder = tmp_path / 'stages' / 'discover' / 'teacher'
    folder.mkdir(parents=True)
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(p) + '\n' for p in HISTORY))
    (tmp_path / 'provenance.json').write_text(json.dumps(PROVENANCE))
    path = write_report(tmp_path, read_results(tmp_path))
    assert path.name == 'report.html'
    assert path.read_text() == pages[WITHOUT_KD]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []
    (tmp_path / 'results.json').write_text('{')
    with pytest.raises(InputError, match='is damaged, no JSON'):
        read_results(tmp_path)


def test_a_figure_that_is_drawn_anew_is_the_same(pages):
    neurons = make_neurons()
    (card,) = neuron_cards(neurons | {'neurons': neurons['neurons'][:1]})
    for chart in (card.chart, selectivity_front(make_study())):
        for panel in chart.panels:
            assert panel.svg in pages['two starts']
            assert panel.file in pages['two starts']


def test_a_figure_is_taken_out_as_a_file(pages):
    page = pages['two starts']
    text = take_figure(page, 'neuron-1-7')
    root = ElementTree.fromstring(text)
    assert root.find('{*}title').text == 'neuron-1-7'
    assert root.find('{*}rect').get('fill') == '#ffffff'
    assert len(list(root.iter('{http://www.w3.org/2000/svg}image'))) == 4, 'maps, and a scale'
    with pytest.raises(InputError, match=r'figure=neuron-0-0 is not in .*choose from methods-1, '):
        take_figure(page, 'neuron-0-0')


def test_the_picture_of_the_readme_is_the_figure_that_its_command_takes_out():
    text = (ROOT / 'README.md').read_text()
    layer, neuron = re.search(
        r'`python -m experiments\.report runs/demo --figure=neuron-(\d+)-(\d+) '
        r'--output=docs/images/neuron\.svg`',
        text,
    ).groups()
    assert f'Where neuron {neuron} of layer {layer} is active' in text
    picture = ElementTree.parse(ROOT / 'docs' / 'images' / 'neuron.svg').getroot()
    assert picture.find('{*}title').text == f'neuron-{layer}-{neuron}'


def test_sizes_are_named_by_few_digits_and_thinned_where_they_collide():
    shares = [n / 1024 for n in (1, 2, 5, 10, 20, 31, 51, 82, 102, 154, 205, 512, 1024)]
    ax = Figure().subplots()
    share_axis(ax, shares)
    names = [one.get_text() for one in ax.get_xticklabels()]
    assert names == ['100', '50', '20', '10', '5', '3', '2', '1', '0.5', '0.2', '0.1']


def test_a_faithfulness_far_from_one_keeps_its_words():
    study = make_study()
    for point in study['curves']['learned']:
        point['faithfulness'] = 300.0
    panel = next(p for p in method_curves(study).panels if p.title == 'Faithfulness')
    assert panel.svg.count('<title>') >= len(study['sizes'])
