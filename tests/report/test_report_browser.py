"""The page in a real browser: whole, quiet, and every control does what it says.

It needs the test extra's playwright and a Chromium of the system; without either it is skipped.
"""

import json
import shutil

import pytest
from synthetic_results import (
    CONFIG,
    HISTORIES,
    PROVENANCE,
    make_neurons,
    make_results,
    make_start,
    make_study,
)

from cdjax.circuits.methods import LEARNED
from cdjax.report.write import render

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed')
PHONE, DESK = 360, 1400
HEIGHTS = 'figures => figures.map(one => one.getBoundingClientRect().height)'


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'report.html'
    start = make_start({'circuits': 0.1})
    path.write_text(render(make_results(starts={'nothing': start}), CONFIG, HISTORIES, PROVENANCE))
    return f'file://{path}'


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end of a test it has said nothing, and asked for nothing."""
    contexts, heard = [], []

    def opened(width=DESK, **options):
        context = browser.new_context(viewport={'width': width, 'height': 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda message: heard.append(message.text))
        page.on('pageerror', lambda error: heard.append(str(error)))
        page.on('request', lambda asked: None if asked.url == address else heard.append(asked.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert heard == []


@pytest.mark.parametrize('width', [PHONE, DESK])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_every_figure_has_content_and_nothing_runs_over_the_edge(open_page, width, scheme):
    page = open_page(width, color_scheme=scheme)
    figures = page.locator('figure svg[role=img]')
    sizes = figures.evaluate_all(
        'all => all.map(one => [one.getBoundingClientRect().width, one.querySelectorAll('
        '"path, use, image").length, one.getBBox().height])'
    )
    assert len(sizes) > 15
    assert all(90 < drawn <= width and marks > 3 and height > 50 for drawn, marks, height in sizes)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    # A text of a figure can be read on a phone without spreading two fingers.
    text = page.locator('#figure-methods svg[role=img] text').first
    assert text.bounding_box()['height'] > 7
    red, green, blue = _background(page)
    assert (red + green + blue < 120) == (scheme == 'dark')


@pytest.mark.parametrize('scripts', [True, False])
def test_a_legend_hides_and_shows_a_series_with_and_without_scripts(open_page, scripts):
    page = open_page(PHONE, java_script_enabled=scripts)
    lines = page.locator(f'#figure-methods [data-series={LEARNED.key}]')
    others = page.locator('#figure-methods [data-series=random_masks]')
    title = make_study()['methods'][LEARNED.key]['title']
    box = page.locator('#figure-methods').get_by_role('checkbox', name=title)
    assert lines.count() >= 3
    assert lines.first.is_visible()
    box.uncheck()
    assert not any(line.is_visible() for line in lines.all())
    assert others.first.is_visible()
    # From the keyboard too; and in another figure the series of that name is another.
    box.press('Space')
    assert lines.first.is_visible()


def test_neurons_are_chosen_by_class(open_page):
    page = open_page(PHONE)
    cards = page.locator('.card')
    assert [card.is_visible() for card in cards.all()] == [True, True]
    page.get_by_label('class 0', exact=True).uncheck()
    assert [card.is_visible() for card in cards.all()] == [False, True]
    page.get_by_label('all classes').uncheck()
    assert [card.is_visible() for card in cards.all()] == [False, False]


@pytest.mark.parametrize('width', [PHONE, DESK])
def test_what_lies_under_the_pointer_is_told(open_page, width):
    page = open_page(width)
    tip = page.locator('#tip')
    assert tip.is_hidden()
    mark = page.locator(f'#figure-methods [data-series={LEARNED.key}] [data-tip]').nth(3)
    mark.scroll_into_view_if_needed()
    place = mark.bounding_box()
    page.mouse.move(place['x'] + place['width'] / 2 + 1, place['y'] + place['height'] / 2)
    only = make_study()['curves'][LEARNED.key][3]['only']
    assert tip.is_visible()
    assert f'15\u00a0%: {100 * only:.1f}\u00a0%' in tip.text_content()
    place = tip.bounding_box()
    assert place['x'] >= 0
    assert place['x'] + place['width'] <= width
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_a_map_tells_the_value_of_each_cell(open_page):
    page = open_page()
    image = page.locator('#figure-neuron-1-7 image').first
    image.scroll_into_view_if_needed()
    place = image.bounding_box()
    grid = make_neurons()['neurons'][0]['maps']['1-2']
    for first, second in ((0, 0), (1, 3), (4, 1)):
        # The first operand grows upwards.
        page.mouse.move(
            place['x'] + (second + 0.5) * place['width'] / 5,
            place['y'] + (4 - first + 0.5) * place['height'] / 5,
        )
        value = grid[first][second]
        shown = 'no problem' if value is None else f'{value:g}'.replace('-', '−')
        assert page.locator('#tip').text_content() == f'{first}, {second}: {shown}'


def test_figures_are_read_from_the_keyboard(open_page):
    page = open_page()
    figure = page.locator('#figure-methods svg[role=img]').first
    figure.focus()
    told = []
    for _ in range(3):
        page.keyboard.press('ArrowRight')
        told.append(page.locator('#tip').text_content())
    assert len(set(told)) == 3
    page.keyboard.press('ArrowLeft')
    assert page.locator('#tip').text_content() == told[1]
    page.keyboard.press('Escape')
    assert page.locator('#tip').is_hidden()


def test_a_theme_is_chosen(open_page):
    page = open_page(color_scheme='light')
    before = _background(page)
    page.get_by_label('dark').check()
    assert sum(_background(page)) < 120 < sum(before)
    page.get_by_label('light').check()
    assert _background(page) == before


def test_paper_is_white_and_shows_what_is_folded(open_page):
    page = open_page(color_scheme='dark')
    page.get_by_label('dark').check()
    page.emulate_media(media='print')
    assert sum(_background(page)) > 700
    heights = page.locator('details.class table').evaluate_all(HEIGHTS)
    assert len(heights) == 6
    assert all(heights)
    assert not page.locator('nav').is_visible()


def test_files_are_saved_under_their_names(open_page):
    page = open_page()
    links = page.locator('#figure-layers .files a')
    saved = {}
    for link in links.all():
        with page.expect_download() as download:
            link.click()
        path = download.value.path()
        saved[download.value.suggested_filename] = path.read_text()
    assert sorted(saved) == ['cdjax-layers-1.svg', 'cdjax-layers-2.svg', 'cdjax-layers.csv']
    assert saved['cdjax-layers.csv'].startswith('class,quantity,layer or class,value\n0,share')
    assert saved['cdjax-layers-1.svg'].startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_without_scripts_nothing_is_lost(open_page):
    with_scripts, without = open_page(), open_page(java_script_enabled=False)
    for what in ('main', 'figure svg[role=img]', 'table', 'a[download]'):
        count = with_scripts.locator(what).count()
        assert count == without.locator(what).count() > 0
    told = lambda page: page.locator('main').text_content()
    titles = with_scripts.locator('[data-tip]').evaluate_all('all => all.map(a => a.dataset.tip)')
    assert len(titles) > 100
    assert json.dumps(titles[3])[1:-1] in json.dumps(told(without))


def _background(page) -> tuple[int, ...]:
    colour = page.evaluate('getComputedStyle(document.body).backgroundColor')
    return tuple(int(part) for part in colour.removeprefix('rgb(').rstrip(')').split(','))
