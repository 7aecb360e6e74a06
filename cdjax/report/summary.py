"""The top of the page: what was found, and whether it can be believed."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from cdjax import wording
from cdjax.circuits.methods import LEARNED, RANDOM_MASKS
from cdjax.distillation.arms import CIRCUITS, KD, RANDOM
from cdjax.distillation.headroom import CLOSE, close_pairs
from cdjax.distillation.patched_headroom import alike_patches
from cdjax.report.comparisons import (
    MORE,
    SAME,
    UNKNOWN,
    Difference,
    arm_difference,
    at_circuit_size,
    beyond_chance,
    fewest_seeds,
    last_changes,
    point_difference,
)
from cdjax.report.names import start_name
from cdjax.wording import percent, points, points_interval

Results = Mapping[str, Any]
ENOUGH_SEEDS, SETTLED, LEVEL = 5, 0.01, 0.05


@dataclasses.dataclass(frozen=True)
class Check:
    """A question that a sceptic asks of a run.

    Attributes:
        question: can be answered by yes or no.
        answer: `yes`, `no`, or `not told apart`.
        figures: what it rests on.
        section: of the page, where more is found.
    """

    question: str
    answer: str
    figures: str
    section: str

    @property
    def kind(self) -> str:
        """`yes`, `no` or `open`."""
        return self.answer if self.answer in ('yes', 'no') else 'open'


def checks(results: Results) -> list[Check]:
    """Returns what the run answers of a sceptic's questions."""
    return [*_of_circuits(results['circuits']), *checks_of_students(results)]


def _of_circuits(study: Results) -> Iterator[Check]:
    at = at_circuit_size(study)
    points_ = {key: curve[at] for key, curve in study['curves'].items()}
    ours = points_.pop(LEARNED.key)
    if RANDOM_MASKS.key in points_:
        random = points_.pop(RANDOM_MASKS.key)
        gap = point_difference(ours, random)
        yield _more('Do the circuits keep more than random masks of their size?', gap, 'circuits')
        # Without the circuits less has to be left, so the difference is turned round.
        gap = point_difference(random, ours, 'without')
        yield _more('Is less left without them than without random masks?', gap, 'circuits')
    if points_:
        best = max(points_, key=lambda key: points_[key]['only'])
        phrase = study['methods'][best]['phrase']
        gap = point_difference(ours, points_[best])
        yield _more(f'Do they keep more than the best other method ({phrase})?', gap, 'circuits')
    found = study['selectivity']
    if found['interval'] is not None:
        own = Difference(found['selectivity'], tuple(found['interval']))
        check = _more('Does a circuit matter to its own class most?', own, 'selectivity')
        if own.verdict == MORE and own.interval[0] <= found['random_interval'][1]:
            check = dataclasses.replace(check, answer='not told apart from random masks')
        yield check
    needless = study['minimality']['needless']
    yield Check(
        'Does every part of the circuits matter?',
        'no' if needless else 'yes',
        f'{percent(needless)} of their neurons are in tenths that do not',
        'circuits',
    )
    leak = study['leak'][LEARNED.classes]
    if leak['most_bits']:
        constant = leak['constant_answer_accuracy']
        yield Check(
            'Do they keep more than the choice of the class alone could?',
            'yes' if ours['only_interval'][0] > constant else 'no',
            f'{percent(ours["only"])} beside {percent(constant)} of one constant answer a class',
            'circuits',
        )
        above, below = beyond_chance(study['classes'])
        if above or below:
            yield Check(
                'Do the classes follow known structure beyond chance?',
                'yes' if above else 'no',
                wording.listing(above or below),
                'classes',
            )


def checks_of_students(results: Results) -> Iterator[Check]:
    """Yields what the students of a run answer, told by its `starts` and its `rediscovery`."""
    for start, found in results['starts'].items():
        for other in (KD, RANDOM):
            gap = arm_difference(found['runs'], CIRCUITS.key, other.key)
            if gap is not None:
                question = f'Do students of class circuits from {start_name(start)} reach more than'
                yield _more(f'{question} those of {other.phrase}?', gap, 'arms')
        yield from _of_arms(start, found)
    changes, seeds = last_changes(results), fewest_seeds(results)
    if changes:
        most = max(map(abs, changes))
        yield Check(
            'Had accuracy stopped changing at the end of the schedule?',
            'yes' if most <= SETTLED else 'no',
            f'between the last two evaluations the mean accuracy of an arm changed by up to '
            f'{points(most).lstrip("+")} points; a learning rate that falls to 0 ends any change, '
            'so that more steps may go further',
            'training',
        )
    if seeds:
        yield Check(
            f'Are there seeds enough ({ENOUGH_SEEDS} or more) to rely on a gain?',
            'yes' if seeds >= ENOUGH_SEEDS else 'no',
            wording.count(seeds, 'seed'),
            'reading',
        )
    chances = [found['chance'] for found in results['rediscovery'].values()]
    chances = [chance for chance in chances if chance is not None]
    if chances:
        yield Check(
            'Are circuits found again in students selective as the teacher’s are?',
            'yes' if max(chances) <= 0.05 else 'no' if min(chances) > 0.05 else 'some',
            f'p = {wording.listing([wording.number(chance, 3) for chance in chances])}',
            'moved',
        )


def _of_arms(start: str, found: Results) -> Iterator[Check]:
    """Yields whether the arms of a start could differ, and whether a gain holds among many."""
    patches = found.get('patches', ())
    patched = sum(row['other'] is not None for row in patches)
    pairs = math.comb(len(found['headroom']), 2) + patched
    if pairs:
        close = len(close_pairs(found['headroom'])) + len(alike_patches(patches))
        same = ', of patches most changed answers the same' if patched else ''
        yield Check(
            f'Do the arms from {start_name(start)} ask students for different things?',
            'no' if close == pairs else 'some' if close else 'yes',
            f'the targets of {close} of {wording.count(pairs, "pair")} of arms are alike '
            f'(CKA above {wording.number(CLOSE)}{same})',
            'arms',
        )
    for row in found['table']:
        if row['arm'] == CIRCUITS.key and row.get('p_holm') is not None:
            yield Check(
                f'Does their gain over KD hold among all arms from {start_name(start)}?',
                'yes' if row['gain'] > 0 and row['p_holm'] < LEVEL else 'not told apart',
                f'p = {wording.number(row["p_holm"], 3)} after Holm’s correction',
                'arms',
            )


def _more(question: str, gap: Difference, section: str) -> Check:
    words = {MORE: 'yes', SAME: 'not told apart', UNKNOWN: 'one seed cannot tell'}
    return Check(question, words.get(gap.verdict, 'no'), gap.amount, section)


def headline(results: Results) -> list[tuple[str, str, str]]:
    """Returns the numbers at the top of the page: (value, what it is, beside what)."""
    study = results['circuits']
    at = at_circuit_size(study)
    measured = {key: curve[at] for key, curve in study['curves'].items()}
    ours, random = measured.pop(LEARNED.key), measured.get(RANDOM_MASKS.key)
    # Beside the weakest control stands the strongest, or the number would flatter.
    best = max(measured, key=lambda key: measured[key]['only'], default=None)
    shown = [key for key in (RANDOM_MASKS.key, best) if key in measured]
    beside = wording.listing(
        [
            f'{study["methods"][key]["phrase"]} {percent(measured[key]["only"])}'
            for key in dict.fromkeys(shown)
        ]
    )
    size = wording.exact_percent(study['shares'][at])
    without = '' if random is None else f'without random masks {percent(random["without"])}'
    cells = [
        (percent(study['accuracy']), 'teacher on unseen problems', 'all neurons'),
        (
            percent(ours['only']),
            f'with only the circuits, {size} of the neurons',
            '; '.join(filter(None, [_interval(ours['only_interval']), beside])),
        ),
        (
            percent(ours['without']),
            'without the circuits',
            '; '.join(filter(None, [_interval(ours['without_interval']), without])),
        ),
    ]
    return cells + headline_of_starts(results['starts'])


def headline_of_starts(starts: Results) -> list[tuple[str, str, str]]:
    """Returns the numbers of students among those at the top of the page, by start."""
    cells = []
    for start, found in starts.items():
        gap = arm_difference(found['runs'], CIRCUITS.key, KD.key)
        if gap is None:
            continue
        beside = 'one seed, no interval'
        if gap.interval is not None:
            beside = f'95{wording.NBSP}% interval {points_interval(gap.interval)}'
        other = arm_difference(found['runs'], CIRCUITS.key, RANDOM.key)
        if other is not None:
            beside += f'; over random masks {points(other.value)}'
            beside += f' {points_interval(other.interval)}' if other.interval else ''
        what = f'points: class circuits over KD, from {start_name(start)}'
        cells.append((points(gap.value), what, beside))
    return cells


def _interval(interval) -> str:
    return f'95{wording.NBSP}% interval {wording.percent_interval(interval)}'
