"""The pages in a real browser: whole, quiet, and every control does what it says."""

import itertools
import json

import pytest
from browser import DESK, PHONE, VIEWS, background, check_whole, chromium, open_page
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
from cdjax.report.arms_report import render_arms
from cdjax.report.compare import render_comparison
from cdjax.report.write import render

HEIGHTS = 'figures => figures.map(one => one.getBoundingClientRect().height)'
STUDY = make_study(methods=('one_mask', 'random_masks'))
# Left and right ends of the numbers below a plot, in their order.
TICKS = """svg => [...svg.querySelectorAll('text')].filter(one => /^[0-9.]+$/.test(one.textContent))
    .map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])
    .sort((a, b) => a[0] - b[0])"""
ENDS = 'all => all.map(one => one.getBoundingClientRect().right)'
WIDTHS = 'all => all.map(one => one.getBoundingClientRect().width)'
# What a reader has done is undone: the pages are opened once.
RESET = """() => {
    document.querySelectorAll('input').forEach(one => { one.checked = one.defaultChecked; });
    document.activeElement.blur();
}"""
in_all_views = pytest.mark.parametrize(('width', 'scheme'), VIEWS)


@pytest.fixture(scope='module')
def addresses(tmp_path_factory, drawn_once):
    folder = tmp_path_factory.mktemp('page')
    arms = ('kd', 'circuits')
    results = make_results(
        study=STUDY, starts={'nothing': make_start({'circuits': 0.1}, arms=arms)}
    )
    pages = {
        'report': render(results, CONFIG, HISTORIES, PROVENANCE),
        'compare': render_comparison({'runs/one': (results, CONFIG), 'runs/two': (results, {})}),
        'arms': render_arms(results['starts'], CONFIG, PROVENANCE),
    }
    for name, text in pages.items():
        (folder / f'{name}.html').write_text(text)
    return {name: f'file://{folder}/{name}.html' for name in pages}


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope='module')
def opened(browser, addresses):
    """Opens a page once, and looks at it as asked; at the end it has said and asked for nothing."""
    pages, heard = {}, []

    def page_of(width=DESK, scheme='light', name='report', scripts=True):
        if (name, scripts) not in pages:
            options = {'java_script_enabled': scripts}
            pages[name, scripts] = open_page(browser, addresses[name], heard, **options)
        page = pages[name, scripts]
        page.set_viewport_size({'width': width, 'height': 900})
        page.emulate_media(media='screen', color_scheme=scheme)
        if scripts:
            page.evaluate(RESET)
            page.mouse.move(1, 1)
        return page

    yield page_of
    assert heard == []


@in_all_views
def test_every_figure_has_content_and_nothing_runs_over_the_edge(opened, width, scheme):
    page = opened(width, scheme)
    check_whole(page, 15, width, scheme)
    # A text of a figure can be read on a phone without spreading two fingers.
    text = page.locator('#figure-methods svg[role=img] text').first
    assert text.bounding_box()['height'] > 7
    # No two names of an axis lie over each other.
    boxes = page.locator('#figure-methods svg[role=img]').first.evaluate(TICKS)
    assert len(boxes) > 4
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(boxes))
    # Of a table that is wider than the page, the caption is read without moving it.
    ends = page.locator('.scroll > table > caption').evaluate_all(ENDS)
    assert len(ends) > 5
    assert max(ends) <= width
    # The last panel of a figure is as wide as the others.
    widths = page.locator('#figure-moved .panel').evaluate_all(WIDTHS)
    assert len(widths) == 3
    assert max(widths) - min(widths) < 1


@in_all_views
def test_a_table_of_arms_is_whole(opened, width, scheme):
    check_whole(opened(width, scheme, 'arms'), 4, width, scheme)


@in_all_views
def test_two_runs_side_by_side(opened, width, scheme):
    page = opened(width, scheme, 'compare')
    check_whole(page, 2, width, scheme)
    lines = page.locator('#figure-runs [data-series=run1]')
    page.get_by_role('checkbox', name='runs/two').uncheck()
    assert not any(line.is_visible() for line in lines.all())
    page.locator('#figure-runs svg[role=img]').first.focus()
    page.keyboard.press('ArrowRight')
    assert page.locator('#tip').text_content().startswith('runs/one, 2\u00a0%: ')


@pytest.mark.parametrize(('width', 'scheme', 'scripts'), [*((*v, True) for v in VIEWS),
                                                          (PHONE, 'light', False)])  # fmt: skip
def test_a_legend_hides_and_shows_a_series_with_and_without_scripts(opened, width, scheme, scripts):
    page = opened(width, scheme, scripts=scripts)
    lines = page.locator(f'#figure-methods [data-series={LEARNED.key}]')
    others = page.locator('#figure-methods [data-series=random_masks]')
    title = STUDY['methods'][LEARNED.key]['title']
    box = page.locator('#figure-methods').get_by_role('checkbox', name=title)
    assert lines.count() >= 3
    assert lines.first.is_visible()
    box.uncheck()
    assert not any(line.is_visible() for line in lines.all())
    assert others.first.is_visible()
    # From the keyboard too; and in another figure the series of that name is another.
    box.press('Space')
    assert lines.first.is_visible()


@in_all_views
def test_neurons_are_chosen_by_class(opened, width, scheme):
    page = opened(width, scheme)
    cards = page.get_by_role('figure', name='Layer 1, neuron')
    assert [card.is_visible() for card in cards.all()] == [True, True]
    page.get_by_label('class 0', exact=True).uncheck()
    assert [card.is_visible() for card in page.locator('.card').all()] == [False, True]
    page.get_by_label('all classes').uncheck()
    assert [card.is_visible() for card in page.locator('.card').all()] == [False, False]


@in_all_views
def test_what_lies_under_the_pointer_is_told(opened, width, scheme):
    page = opened(width, scheme)
    tip = page.locator('#tip')
    assert tip.is_hidden()
    mark = page.locator(f'#figure-methods [data-series={LEARNED.key}] [data-tip]').nth(3)
    mark.scroll_into_view_if_needed()
    place = mark.bounding_box()
    page.mouse.move(place['x'] + place['width'] / 2 + 1, place['y'] + place['height'] / 2)
    only = STUDY['curves'][LEARNED.key][3]['only']
    assert tip.is_visible()
    assert f'15\u00a0%: {100 * only:.1f}\u00a0%' in tip.text_content()
    place = tip.bounding_box()
    assert place['x'] >= 0
    assert place['x'] + place['width'] <= width
    page.mouse.move(1, 1)
    assert tip.is_hidden()


@in_all_views
def test_a_map_tells_the_value_of_each_cell(opened, width, scheme):
    page = opened(width, scheme)
    image = page.locator('#figure-neuron-1-7 image').first
    image.scroll_into_view_if_needed()
    place = image.bounding_box()
    for first, second in ((0, 0), (1, 3), (4, 1)):
        # The first operand grows upwards.
        page.mouse.move(
            place['x'] + (second + 0.5) * place['width'] / 5,
            place['y'] + (4 - first + 0.5) * place['height'] / 5,
        )
        assert page.locator('#tip').text_content() == _cell(first, second)


@in_all_views
def test_figures_and_maps_are_read_from_the_keyboard(opened, width, scheme):
    page = opened(width, scheme)
    tip, ring, press = page.locator('#tip'), page.locator('#ring'), page.keyboard.press
    page.locator('#figure-methods svg[role=img]').first.focus()
    told = []
    for _ in range(3):
        press('ArrowRight')
        told.append(tip.text_content())
    assert len(set(told)) == 3
    press('ArrowLeft')
    assert tip.text_content() == told[1]
    press('Escape')
    assert tip.is_hidden()

    page.locator('#figure-neuron-1-7 svg[role=img]').focus()
    for key, cell in (('ArrowRight', (4, 0)), ('ArrowDown', (3, 0)), ('ArrowRight', (3, 1)),
                      ('ArrowUp', (4, 1)), ('ArrowUp', (4, 1)), ('PageDown', (4, 0))):  # fmt: skip
        press(key)
        assert tip.text_content() == _cell(*cell), key
    # The ring lies upon the cell: of the second map, its first.
    image = page.locator('#figure-neuron-1-7 image').nth(1).bounding_box()
    assert ring.bounding_box()['x'] == pytest.approx(image['x'], abs=1)
    assert ring.bounding_box()['width'] == pytest.approx(image['width'] / 5, abs=1)
    press('PageDown')
    press('PageDown')
    assert tip.text_content().startswith('answer 0: activation by answer')
    assert ring.is_hidden()
    press('PageUp')
    press('Escape')
    assert ring.is_hidden()


@pytest.mark.parametrize('width', [PHONE, DESK])
def test_a_theme_is_chosen(opened, width):
    page = opened(width)
    before = background(page)
    page.get_by_label('dark').check()
    assert sum(background(page)) < 120 < sum(before)
    page.get_by_label('light').check()
    assert background(page) == before


def test_paper_is_white_and_shows_what_is_folded(opened):
    page = opened(DESK, 'dark')
    page.get_by_label('dark').check()
    page.emulate_media(media='print')
    assert sum(background(page)) > 700
    heights = page.locator('details.class table').evaluate_all(HEIGHTS)
    assert len(heights) == 6
    assert all(heights)
    assert not page.locator('nav').is_visible()


def test_files_are_saved_under_their_names(opened):
    page = opened()
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


def test_without_scripts_nothing_is_lost(opened):
    with_scripts, without = opened(), opened(PHONE, scripts=False)
    for what in ('main', 'figure svg[role=img]', 'table', 'a[download]'):
        count = with_scripts.locator(what).count()
        assert count == without.locator(what).count() > 0
    told = lambda page: page.locator('main').text_content()
    titles = with_scripts.locator('[data-tip]').evaluate_all('all => all.map(a => a.dataset.tip)')
    assert len(titles) > 100
    assert json.dumps(titles[3])[1:-1] in json.dumps(told(without))
    # Of a map, which has no texts of its own, the cells; of every figure, its numbers.
    card = without.locator('#figure-neuron-1-7')
    card.locator('summary').click()
    assert card.get_by_role('region').is_visible()
    # Of the second map the lines of its operands; a value of the first stands in front of each.
    assert card.get_by_role('region').text_content().count('operands 2-3') == 6
    figures = with_scripts.locator('figure')
    assert figures.locator('details.numbers').count() == figures.count()


def _cell(first, second):
    """Returns what is told of a cell of a map of the neuron of the synthetic results."""
    value = make_neurons()['neurons'][0]['maps']['1-2'][first][second]
    shown = 'no problem' if value is None else f'{value:g}'.replace('-', '−')
    return f'{first}, {second}: {shown}'
