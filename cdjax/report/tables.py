"""Rows of the tables that the terminal and the page have in common, and of the page's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdjax.circuits.methods import LEARNED, ONE_MASK, RANDOM_MASKS
from cdjax.distillation.arms import CIRCUITS, KD
from cdjax.evaluation.statistics import student_interval
from cdjax.report.comparisons import (
    LESS,
    MORE,
    SAME,
    UNKNOWN,
    Difference,
    arm_difference,
    at_circuit_size,
    point_difference,
)
from cdjax.report.names import arm_name

Results = Mapping[str, Any]
Row = dict[str, Any]

TESTS = ('p', 'p_holm', 'p_equivalent')  # of `cdjax.studies.arms.summarise`
MAX_COLUMNS = 12  # labels with more values (such as the answer) are not tabulated


def circuit_rows(study: Results) -> list[Row]:
    """Returns the methods at the size of the circuits, ours first.

    Each row has `title`, `ours` (whether it is the circuits), `only`, `without` (with intervals),
    `faithfulness` and `verdict`: whether the circuits keep more, less or the same as it (None for
    the circuits).
    """
    at = at_circuit_size(study)
    ours = study['curves'][LEARNED.key][at]
    rows = []
    for key, curve in study['curves'].items():
        point, is_ours = curve[at], key == LEARNED.key
        title = study['methods'][key]['title']
        verdict = None if is_ours else point_difference(ours, point).verdict
        rows.append({'title': title, 'ours': is_ours, **point, 'verdict': verdict})
    if study['one_mask_at_union_size'] is not None:
        point = study['one_mask_at_union_size']
        verdict = point_difference(ours, point).verdict
        share = study['union_size'] / study['neurons']
        title = study['methods'][ONE_MASK.key]['title']
        rows.append({'title': title, 'ours': False, 'share': share, **point, 'verdict': verdict})
    return rows


def arm_rows(found: Results) -> list[Row]:
    """Returns the arms of one start with what the page shows beside `summarise`'s columns.

    Added to each row are `share` (accuracy on the share), `cka_all`, `cka_circuits` (means over
    seeds), `ours` (whether it is the class circuits) and `difference` from KD, None for KD itself
    or without it.
    """
    rows = []
    for row in found['table']:
        arm = row['arm']
        runs = [run for run in found['runs'] if run['arm'] == arm]
        means = {
            key: _mean(run[key] for run in runs) for key in ('share', 'cka_all', 'cka_circuits')
        }
        gain = None if arm == KD.key else arm_difference(found['runs'], arm, KD.key)
        rows.append({**row, **means, 'ours': arm == CIRCUITS.key, 'difference': gain})
    return rows


def circuit_arm_rows(found: Results) -> list[tuple[str, Difference]]:
    """Returns how the arm of class circuits differs from each other arm: (title, difference)."""
    gaps = [
        (row['title'], arm_difference(found['runs'], CIRCUITS.key, row['arm']))
        for row in found['table']
        if row['arm'] != CIRCUITS.key
    ]
    return [(title, gap) for title, gap in gaps if gap is not None]


def significance_rows(found: Results) -> list[Row]:
    """Returns the arms of one start whose gain over KD is tested: those of two seeds or more.

    Each has `title`, `p`, `p_holm` and `p_equivalent`, see `cdjax.studies.arms.summarise`.
    """
    tested = [row for row in found['table'] if row.get('p') is not None]
    return [{key: row[key] for key in ('title', *TESTS)} for row in tested]


def steps_rows(found: Results) -> list[Row]:
    """Returns how soon the students of each arm of one start reach the accuracy that is asked for.

    Each has `title`, `seeds`, how many of these have `reached` it, the mean `steps`, and the
    `difference` from KD's, paired by seed; both None where one student that they are told of never
    reaches it: the others alone would be the fast ones. No rows where nobody does.
    """
    of = {
        row['arm']: dict(zip(row['seeds'], row['steps_to_reach'], strict=True))
        for row in found['table']
    }
    if all(steps is None for one in of.values() for steps in one.values()):
        return []
    rows = []
    for row in found['table']:
        own, kd = of[row['arm']], of.get(KD.key, {})
        pairs = [(own[seed], kd[seed]) for seed in own if seed in kd]
        gap = None
        if row['arm'] != KD.key and pairs and None not in np.ravel(pairs):
            gaps = np.subtract(*np.transpose(pairs))
            gap = Difference(float(gaps.mean()), student_interval(gaps))
        reached = [steps for steps in own.values() if steps is not None]
        rows.append(
            {
                'title': row['title'],
                'seeds': len(own),
                'reached': len(reached),
                'steps': _mean(reached) if len(reached) == len(own) else None,
                'difference': gap,
            }
        )
    return rows


def headroom_rows(headroom: Results) -> list[tuple[str, list[float | None]]]:
    """Returns each arm, and how alike its target is to that of each before it: (name, CKAs).

    Args:
        headroom: of one start, see `ArmTables.headroom`; fewer than two arms have none.
    """
    if len(headroom) < 2:
        return []
    arms = list(headroom)
    return [(arm_name(a), [headroom[a][b] for b in arms[:i]]) for i, a in enumerate(arms)]


def patch_rows(patches: Sequence[Results]) -> list[tuple[str, float, float, float | None]]:
    """Returns which two answers are held against each other: (names, agreement, moved, same).

    Args:
        patches: of one start, see `cdjax.distillation.patched_headroom`.
    """
    return [
        (
            f'{arm_name(row["arm"])} and '
            + ('no patch' if row['other'] is None else arm_name(row['other'])),
            *(row[key] for key in ('agreement', 'moved', 'same')),
        )
        for row in patches
    ]


def minimality_rows(study: Results) -> list[Row]:
    """Returns the tenths of the circuits, the highest scores first, less which they are measured.

    Each has `tenth` (from 1), `neurons`, `accuracy`, `drop` of the answer's probability with
    `drop_interval`, and `matters`.
    """
    found = study['minimality']
    return [
        {**block, 'tenth': i, 'matters': block['drop'] >= found['matters']}
        for i, block in enumerate(found['blocks'], 1)
    ]


def class_tables(study: Results) -> list[Row]:
    """Returns a table of classes and values for each label with few values, operators first.

    Each has `label`, `names` of the columns, `rows` of (class, problems, counts, shares of the
    row), shares None for an empty class.
    """
    tables = []
    for label, found in sorted(study['classes'].items(), key=lambda item: item[0] != 'operators'):
        names = found['names']
        if len(names) > MAX_COLUMNS:
            continue
        rows = []
        for k, counts in enumerate(found['table']):
            counts = counts + [0] * (len(names) - len(counts))
            total = sum(counts)
            shares = [n / total if total else None for n in counts]
            rows.append((k, total, list(zip(counts, shares, strict=True))))
        tables.append({'label': label, 'names': names, 'rows': rows})
    return tables


def agreement_rows(study: Results) -> list[tuple[str, Results]]:
    """Returns the labels with NMI, ARI and chance level, the strongest agreement first."""
    return sorted(study['classes'].items(), key=lambda item: -item[1]['nmi'])


def leak_rows(study: Results) -> list[Row]:
    """Returns what each scheme of classes gives away of the answer.

    Each row has `title`, `ours`, and `only`: what circuits of these classes keep, None where no
    method of the study goes by them.
    """
    at = at_circuit_size(study)
    rows = []
    for scheme, found in study['leak'].items():
        methods = [key for key in study['curves'] if study['methods'][key]['classes'] == scheme]
        title, only = scheme.replace('_', ' '), None
        if methods:
            title = study['methods'][methods[0]]['title']
            only = study['curves'][methods[0]][at]['only']
        rows.append({'title': title, 'ours': scheme == LEARNED.classes, 'only': only, **found})
    return rows


def moved_rows(rediscovery: Mapping[str, Results]) -> list[Row]:
    """Returns for each student searched again its circuits, and how they compare."""
    rows = []
    for found in rediscovery.values():
        study = found['study']
        at = at_circuit_size(study)
        rows.append(
            {
                **found,
                'accuracy': study['accuracy'],
                **study['curves'][LEARNED.key][at],
                'random': study['curves'][RANDOM_MASKS.key][at]['only'],
            }
        )
    return rows


def verdict_words(verdict: str | None) -> str:
    """Returns how ours compare, in a cell."""
    return {
        None: '',
        MORE: 'more',
        LESS: 'less',
        SAME: 'not told apart',
        UNKNOWN: 'one seed',
    }[verdict]


def _mean(values) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
