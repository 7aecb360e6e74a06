"""The examples of docs/losses.md run, and every public name is on the page."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

from cdjax import losses

PAGE = Path(__file__).parents[2] / 'docs' / 'losses.md'


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', PAGE.read_text(), flags=re.DOTALL)


def test_the_examples_of_each_function_print_what_the_page_says():
    session = '\n'.join(blocks('pycon'))
    test = doctest.DocTestParser().get_doctest(session, {}, 'losses.md', str(PAGE), 0)
    output = []
    failed, attempted = doctest.DocTestRunner().run(test, out=output.append)
    assert attempted > 40
    assert not failed, ''.join(output)


@pytest.mark.parametrize('number', [0, 1, 2], ids=['optax', 'shard_map', 'doctor'])
def test_the_programs_run(number):
    programs = blocks('python')
    assert len(programs) == 3
    exec(compile(programs[number], str(PAGE), 'exec'), {})


@pytest.mark.parametrize('name', [n for n in losses.__all__ if n not in ('HSIC', 'ClassCKA')])
def test_every_public_name_has_an_example_and_an_entry(name):
    examples = blocks('pycon') + blocks('python')
    assert re.search(rf'losses\.{name}\b', ''.join(examples)), 'no example'
    prose = re.sub(r'```.*?```', '', PAGE.read_text(), flags=re.DOTALL)
    entry = rf'\b{name}\b'
    if inspect.isfunction(getattr(losses, name)):  # in bold or in the table, with what it takes
        entry = rf'(\*\*|\| )`{name}[(]'
    assert re.search(entry, prose), 'no entry'
