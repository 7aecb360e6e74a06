"""What the numbers of a run allow one to say: more, less, or not told apart.

Every sentence of a report goes through a verdict of this module, so that a difference is claimed
where its 95 % interval excludes zero, and nowhere else.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cdjax.circuits.methods import LEARNED
from cdjax.distillation.arms import ARMS, CIRCUITS, KD
from cdjax.evaluation.statistics import student_interval
from cdjax.wording import exact_percent, listing, number, percent, points, points_interval

MORE, LESS, SAME, UNKNOWN = 'more', 'less', 'same', 'unknown'


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference and its 95 % interval, None where there is too little to give one."""

    value: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """`MORE` or `LESS` where the interval excludes zero, `SAME` where it holds zero."""
        return verdict_of(self.interval)

    @property
    def amount(self) -> str:
        """The difference in points, and its interval where there is one."""
        interval = f' {points_interval(self.interval)}' if self.interval else ''
        return f'{points(self.value)} points{interval}'


def verdict_of(interval: Sequence[float] | None) -> str:
    """Returns `MORE` or `LESS` where an interval excludes zero, `SAME` where it holds zero."""
    if interval is None:
        return UNKNOWN
    low, high = interval
    return MORE if low > 0 else LESS if high < 0 else SAME


def difference(
    a: float, a_interval: Sequence[float], b: float, b_interval: Sequence[float]
) -> Difference:
    """Returns a − b of two estimates with intervals of their own.

    The interval combines the two by their distances from the estimates (Zou and Donner 2008,
    Statistics in Medicine 27:1693). It takes them to be independent; accuracies on the same
    problems go together, which makes it too wide rather than too narrow.
    """
    low = math.hypot(a - a_interval[0], b_interval[1] - b)
    high = math.hypot(a_interval[1] - a, b - b_interval[0])
    return Difference(a - b, (a - b - low, a - b + high))


def point_difference(a: Mapping[str, Any], b: Mapping[str, Any], field: str = 'only') -> Difference:
    """Returns `difference` of a field of two methods at one size."""
    return difference(a[field], a[f'{field}_interval'], b[field], b[f'{field}_interval'])


def arm_difference(runs: Sequence[Mapping[str, Any]], arm: str, other: str) -> Difference | None:
    """Returns the accuracy of one arm minus another's, paired by seed; None without a pair."""
    return _paired_by_seed(_by_seed(runs, arm), _by_seed(runs, other))


def table_difference(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], arm: str
) -> Difference | None:
    """Returns the accuracy of an arm in a second table minus that in a first, paired by seed.

    None without a seed that both have. Students of a seed begin with the same weights and see the
    same batches as long as the tables differ in what is aligned alone; else pairing gains nothing.
    The interval is over students: of the discovery that all students of a table share it knows
    nothing.

    Args:
        first: the runs of a start in one table.
        second: those of the same start in another.
        arm: key of the arm.
    """
    return _paired_by_seed(_by_seed(second, arm), _by_seed(first, arm))


def _by_seed(runs: Sequence[Mapping[str, Any]], arm: str) -> dict[int, float]:
    return {run['seed']: run['unseen'] for run in runs if run['arm'] == arm}


def _paired_by_seed(of: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    paired = [value - other[seed] for seed, value in of.items() if seed in other]
    if not paired:
        return None
    return Difference(sum(paired) / len(paired), student_interval(paired))


def overlap_difference(study: Mapping[str, Any]) -> Difference | None:
    """Returns the mean overlap (IoU) of two circuits minus that of random masks like them.

    All of it among living neurons. The interval is two standard deviations of the overlap of one
    pair of random masks, whose intersection is hypergeometric; None for a single circuit.
    """
    overlap, neurons, chance = study['overlap'], study['living']['neurons'], study['chance_overlap']
    pairs = [overlap[j][k] for j in range(len(overlap)) for k in range(j)]
    if not pairs:
        return None
    p = 2 * chance / (1 + chance)  # the part of the living that is in a circuit
    n = p * neurons
    deviation = math.sqrt(n * p * (1 - p) * (neurons - n) / max(neurons - 1, 1))
    half = 2 * deviation * 2 * n / (2 * n - n * p) ** 2
    value = sum(pairs) / len(pairs) - chance
    return Difference(value, (value - half, value + half))


def at_circuit_size(study: Mapping[str, Any]) -> int:
    """Returns the index of the evaluated size that is nearest to that of the circuits."""
    sizes = study['sizes']
    return min(range(len(sizes)), key=lambda i: abs(sizes[i] - study['size']))


def method_gaps(study: Mapping[str, Any], field: str) -> list[tuple[str, Difference]]:
    """Returns how the circuits differ from each other method at their size: (phrase, gap).

    Of what is kept, also from one mask for all problems that is as large as all of them together.
    """
    at, whole = at_circuit_size(study), study['one_mask_at_union_size']
    points_ = {key: curve[at] for key, curve in study['curves'].items()}
    ours = points_.pop(LEARNED.key)
    others = [(study['methods'][key]['phrase'], point) for key, point in points_.items()]
    if whole is not None and field == 'only':
        size = exact_percent(study['union_size'] / study['neurons'])
        others.append((f'one mask at the {size} that all circuits hold', whole))
    named = [(f'{phrase} ({percent(point[field])})', point) for phrase, point in others]
    return [(name, point_difference(ours, point, field)) for name, point in named]


def first_of(table: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the row of the arm that others are held against: of class circuits, KD or the first.

    Args:
        table: see `cdjax.studies.arms.summarise`.
    """
    of = {row['arm']: row for row in table}
    return of.get(CIRCUITS.key) or of.get(KD.key) or table[0]


def arm_gaps(found: Mapping[str, Any], base: str) -> list[tuple[str, Difference]]:
    """Returns how an arm differs from each other arm of a start: (phrase with amount, gap)."""
    gaps = [(row, arm_difference(found['runs'], base, row['arm'])) for row in found['table']]
    others = [(row, gap) for row, gap in gaps if gap is not None and row['arm'] != base]
    return [(f'{row["phrase"]} ({gap.amount})', gap) for row, gap in others]


def by_verdict(gaps: Sequence[tuple[str, Difference]], how: str) -> str:
    """Returns `: more than with A and B; not told apart from C`, nothing where there are no gaps.

    Args:
        gaps: (name, difference).
        how: what makes the difference, `with` or `without`.
    """
    words = {
        MORE: f'more than {how}',
        SAME: 'not told apart from',
        LESS: f'less than {how}',
        UNKNOWN: 'one seed allows no conclusion about the differences from',
    }
    named = {v: [name for name, gap in gaps if gap.verdict == v] for v in words}
    told = '; '.join(f'{words[v]} {listing(names)}' for v, names in named.items() if names)
    return f': {told}' if told else ''


def beyond_chance(classes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns what classes agree with beyond chance, the strongest first, and what they do not."""
    ranked = sorted(classes.items(), key=lambda item: -item[1]['nmi'])
    named = {label: f'{label} (NMI {number(found["nmi"])})' for label, found in ranked}
    above = [named[label] for label, found in ranked if found['nmi'] > found['chance_nmi']]
    return above, [name for name in named.values() if name not in above]


def layer_totals(study: Mapping[str, Any]) -> list[float]:
    """Returns the part of each layer that is in the circuits, summed over classes."""
    return [sum(layer) for layer in zip(*study['layer_share'], strict=True)]


def mean_diagonal(matrix: Sequence[Sequence[float | None]]) -> float:
    """Returns the mean of the diagonal, without empty classes."""
    values = [row[j] for j, row in enumerate(matrix) if row[j] is not None]
    return sum(values) / len(values)


def last_changes(results: Mapping[str, Any]) -> list[float]:
    """Returns for each start and arm its mean change of accuracy between the last evaluations."""
    changes: dict[tuple[str, str], list[float]] = {}
    for start, found in results['starts'].items():
        for run in found['runs']:
            if len(run['curve']) > 1:
                change = run['curve'][-1][1] - run['curve'][-2][1]
                changes.setdefault((start, run['arm']), []).append(change)
    return [sum(values) / len(values) for values in changes.values()]


def fewest_seeds(results: Mapping[str, Any]) -> int:
    """Returns the seeds of the start that has fewest, 0 where there is no start."""
    starts = results['starts'].values()
    return min((len({run['seed'] for run in found['runs']}) for found in starts), default=0)


def arms_not_run(found: Mapping[str, Any]) -> list[str]:
    """Returns the names of the usual arms that were not run from a start."""
    run = {row['arm'] for row in found['table']}
    return [arm.phrase for key, arm in ARMS.items() if arm.by_default and key not in run]
