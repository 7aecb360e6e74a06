"""What was found: one sentence for each part of a run, told from its numbers.

The words are in `templates/sentences.jinja`. No sentence is canned: what is more, less or not told
apart comes from `comparisons`, and a negative result is worded as plainly as a positive one.
"""

import functools
import math
import re
import statistics
from typing import Any

import jinja2

from cdjax import wording
from cdjax.report import comparisons, names
from cdjax.report.names import TEMPLATES
from cdjax.studies.arms import EQUIVALENT
from cdjax.studies.circuits.curves import KEPT

FILTERS = ('percent', 'exact_percent', 'percent_interval', 'points', 'points_interval')
FILTERS += ('number', 'count', 'listing')
# Spaces between a number and its name, where no line breaks.
TOGETHER = re.compile(r'(?<=NMI) (?=\d)|(?<=\bp) (?==)|(?<=p =) (?=\d)|(?<=\d) (?=points)')


def say(name: str, *facts: Any) -> str | None:
    """Returns the sentence of a macro of `sentences.jinja`, None where it has nothing to say."""
    text = re.sub('[ \n]+', ' ', getattr(_sentences(), name)(*facts)).strip()
    return wording.sentence(TOGETHER.sub(wording.NBSP, text)) if text else None


def limits(results: Any, config: Any) -> list[str]:
    """Returns what the numbers of a run do not say, one sentence each."""
    return _split(_sentences().limits(results, config))


def limits_of_table(results: Any) -> list[str]:
    """Returns what the numbers of a table of arms do not say, one sentence each."""
    return _split(_sentences().limits_of_table(results))


def _split(text: str) -> list[str]:
    parts = (re.sub('[ \n]+', ' ', part).strip() for part in text.split('¶'))
    return [wording.sentence(part) for part in parts]


@functools.cache
def _sentences():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.ChainableUndefined
    )
    environment.filters |= {name: getattr(wording, name) for name in FILTERS}
    environment.globals |= vars(names) | vars(comparisons)
    environment.globals |= {'factorial': math.factorial, 'mean': statistics.mean, 'KEPT': KEPT}
    environment.globals['EQUIVALENT'] = EQUIVALENT
    return environment.get_template('sentences.jinja').module
