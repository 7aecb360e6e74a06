"""The Chromium of the system, for the pages that the package writes; without one a test is skipped.

It needs the test extra's playwright.
"""

import contextlib
import shutil

import pytest

PHONE, DESK = 360, 1400
VIEWS = [(width, scheme) for width in (PHONE, DESK) for scheme in ('light', 'dark')]
NAMES = ('chromium', 'chromium-browser', 'google-chrome')


@contextlib.contextmanager
def chromium():
    """Gives a browser."""
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip('no Chromium is installed')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


def open_page(browser, address, heard, width=DESK, scheme='light', **options):
    """Opens a page; what it says on the console, or asks of a network, is added to `heard`."""
    size = {'width': width, 'height': 900}
    page = browser.new_context(viewport=size, color_scheme=scheme, **options).new_page()
    page.on('console', lambda message: heard.append(message.text))
    page.on('pageerror', lambda error: heard.append(str(error)))
    page.on('request', lambda asked: None if asked.url == address else heard.append(asked.url))
    page.goto(address)
    return page


def check_whole(page, figures, width, scheme):
    """Checks that every figure has content and a name, and nothing runs over the edge."""
    sizes = page.locator('figure svg[role=img]').evaluate_all(
        'all => all.map(one => [one.getBoundingClientRect().width, one.querySelectorAll('
        '"path, use, image").length, one.getBBox().height, one.getAttribute("aria-label").length])'
    )
    assert len(sizes) >= figures
    for drawn, marks, height, name in sizes:
        assert 90 < drawn <= width
        assert marks > 3
        assert height > 50
        assert name > 20
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    assert (sum(background(page)) < 120) == (scheme == 'dark')


def background(page) -> tuple[int, ...]:
    """Returns the colour of the page, red, green and blue."""
    colour = page.evaluate('getComputedStyle(document.body).backgroundColor')
    return tuple(int(part) for part in colour.removeprefix('rgb(').rstrip(')').split(','))
