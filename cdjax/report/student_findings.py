"""What was found in the students: one sentence for each part, drawn from the numbers of the run.

The rules are those of `findings`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cdjax.circuits.methods import LEARNED
from cdjax.distillation.arms import ARMS, CIRCUITS, KD
from cdjax.report.comparisons import (
    LESS,
    MORE,
    SAME,
    UNKNOWN,
    arm_difference,
    at_circuit_size,
)
from cdjax.studies.arms import STARTS
from cdjax.wording import (
    NBSP,
    count,
    listing,
    number,
    percent,
    points,
    points_interval,
    sentence,
)

Results = Mapping[str, Any]

ABLATED = {
    'mean': 'are set to their mean at each position',
    'overall_mean': 'are set to their mean over all positions',
    'zero': 'are set to zero',
    'counterfactual': 'take what they are on another problem, the counterfactual',
}


def training(history: Sequence[Mapping[str, float]], results: Results) -> str:
    """Says how far the discovery came, and whether the students had settled."""
    parts = []
    points_ = [p for p in history if p.get('loss') is not None]
    if points_:
        first, last = points_[0], points_[-1]
        parts.append(
            f'over {count(last["step"], "step")} the loss of the discovery went from '
            f'{number(first["loss"])} to {number(last["loss"])}'
        )
    changes = last_changes(results)
    if changes:
        low, high = min(changes.values()), max(changes.values())
        span = points(low) if points(low) == points(high) else f'{points(low)} to {points(high)}'
        state = 'had not settled' if max(abs(low), abs(high)) > 0.01 else 'had settled'
        parts.append(
            f'between the last two evaluations the mean accuracy of an arm changed by {span} '
            f'points, so the students {state} when they were compared'
        )
    return sentence('; '.join(parts) or 'no training curves were kept')


# What to know of the terms of an objective when their curves are read.
_OF_TERMS = {
    'any_size': 'Faithfulness is the mean over sizes of the logarithm of the KL, and kl its plain '
    'mean; usage is minus the mutual information of class and problem; all in nats.',
    'causal': 'Usage is minus the mutual information of class and problem, in nats; sparsity is '
    'faded in over the second part of the steps.',
}


def terms_caption(objective: str) -> str:
    """Returns the caption of the curves of an objective's terms."""
    first = f'Terms of the {objective.replace("_", " ")} objective of the discovery in the teacher'
    return f'{first}, before weighting. {_OF_TERMS.get(objective, "")}'.strip()


def last_changes(results: Results) -> dict[tuple[str, str], float]:
    """Returns by (start, arm) the mean change of accuracy between the last two evaluations."""
    changes: dict[tuple[str, str], list[float]] = {}
    for start, found in results['starts'].items():
        for run in found['runs']:
            if len(run['curve']) > 1:
                change = run['curve'][-1][1] - run['curve'][-2][1]
                changes.setdefault((start, run['arm']), []).append(change)
    return {key: sum(values) / len(values) for key, values in changes.items()}


def start_name(start: str) -> str:
    """Returns what a start is from: `nothing`, or a student."""
    return STARTS[start].removeprefix('a student from ')


def arms(start: str, found: Results) -> str:
    """Says what the class circuits added to the distillation, against KD and every control.

    Without the arm of class circuits, says what each arm added to KD; without KD, what each
    reached.
    """
    runs, table = found['runs'], found['table']
    names = [row['arm'] for row in table]
    phrase = {row['arm']: row['phrase'] for row in table}
    seeds = len({run['seed'] for run in runs})
    means = {row['arm']: row['mean'] for row in table}
    over = 'in the only seed' if seeds == 1 else f'over {count(seeds, "seed")}'
    head = f'starting from {start_name(start)}, {over}, '
    base = next((arm.key for arm in (CIRCUITS, KD) if arm.key in names), None)
    others = [name for name in names if name != base]
    if base is None or not others:
        reached = [f'{percent(means[n])} with {phrase[n]}' for n in names]
        return sentence(f'{head}students answer {listing(reached)} of unseen problems')
    head += (
        f'students aligned with class circuits answer {percent(means[base])} of unseen problems'
        if base == CIRCUITS.key
        else f'students of KD alone answer {percent(means[base])} of unseen problems'
    )
    verdicts: dict[str, list[str]] = {MORE: [], SAME: [], LESS: [], UNKNOWN: []}
    for other in others:
        gap = arm_difference(runs, base, other)
        if gap is None:
            continue
        amount = f'{points(gap.value)} points'
        if gap.interval is not None:
            amount += f' {points_interval(gap.interval)}'
        verdicts[gap.verdict].append(f'{phrase[other]} ({amount})')
    phrases = {
        MORE: 'more than with {}',
        LESS: 'less than with {}',
        SAME: 'not told apart from {}',
        UNKNOWN: 'one seed allows no conclusion about the differences from {}',
    }
    clauses = [phrases[v].format(listing(verdicts[v])) for v in phrases if verdicts[v]]
    return sentence(f'{head}: {"; ".join(clauses)}')


def head_start(found: Results) -> str | None:
    """Says what students could do before they were distilled; None for those from nothing."""
    first = found['first']
    if first is None:
        return None
    mean = lambda values: percent(sum(values) / len(values))
    return sentence(
        f'before distillation these students answered {mean(first["unseen"])} of unseen problems '
        f'and {mean(first["share"])} of the share that they were then distilled on'
    )


def moved(rediscovery: Results) -> str:
    """Says whether the students' circuits are selective for the same classes as the teacher's."""
    if not rediscovery:
        return sentence('no student was searched for circuits in this run')
    parts = []
    for found in rediscovery.values():
        study = found['study']
        at = at_circuit_size(study)
        kept = study['curves'][LEARNED.key][at]['only']
        head = f'circuits found again in the student of {_student(found)} keep {percent(kept)}'
        head += f' right (the whole student has {percent(study["accuracy"])})'
        if found['correlation'] is None:
            parts.append(f'{head}, and their selectivity cannot be compared with the teacher’s')
            continue
        r = number(found['correlation'])
        head += f', and their selectivity correlates with the teacher’s by {r}'
        if found['chance'] is None:
            parts.append(f'{head}, for which fewer than three classes give no chance level')
        elif found['chance'] <= 0.05:
            parts.append(
                f'{head}, more than by chance (p{NBSP}={NBSP}{number(found["chance"], 3)})'
            )
        else:
            parts.append(
                f'{head}, not more than by chance (p{NBSP}={NBSP}{number(found["chance"])})'
            )
    return sentence('; '.join(parts))


def _student(found: Results) -> str:
    aligned = found['arm'] != KD.key
    return f'KD with CKA of {found["phrase"]}' if aligned else found['phrase']


def limits(results: Results, config: Results) -> list[str]:
    """Returns what these numbers do not say, one sentence each."""
    study, found = results['circuits'], []
    found.append(
        sentence(
            f'circuits and controls were discovered once, with one seed: their intervals are '
            f'bootstrap intervals over {count(study["problems"], "problem")} and say nothing of '
            'how much another seed would change'
        )
    )
    counts = sorted({len({r['seed'] for r in s['runs']}) for s in results['starts'].values()})
    if counts:
        seeds = counts[0]
        found.append(
            sentence(
                'there is one seed for each arm, so that no gain has an interval and none is a '
                'finding'
                if seeds == 1
                else f'gains are paired by seed, and their intervals are Student’s t over '
                f'{count(seeds, "seed")}; they are wide because seeds differ by more than arms do'
                + (', and at least five are needed to rely on them' if seeds < 5 else '')
            )
        )
        compared = sum(
            arm_difference(s['runs'], CIRCUITS.key, row['arm']) is not None
            for s in results['starts'].values()
            for row in s['table']
            if row['arm'] != CIRCUITS.key
        )
        if compared > 1 and seeds > 1:
            found.append(
                sentence(
                    f'{compared} comparisons between arms are made at the level of 95{NBSP}% '
                    'without a correction: one in twenty excludes zero by chance'
                )
            )
    for start, s in results['starts'].items():
        run = [row['arm'] for row in s['table']]
        absent = [a.phrase for key, a in ARMS.items() if a.by_default and key not in run]
        if absent:
            found.append(
                sentence(f'not run, starting from {start_name(start)}: the arms {listing(absent)}')
            )
    if results['rediscovery']:
        K = len(study['layer_share'])
        least = f'; with {K} classes it cannot fall below {number(1 / math.factorial(K), 3)}'
        found.append(
            sentence(
                'circuits were searched again in students of the first start and seed only, and p '
                'is the share of relabellings of the classes that correlate at least as much'
                + (least if 3 <= K <= 7 else '')
            )
        )
    if study['accuracy'] < 0.95:
        found.append(
            sentence(
                f'the teacher itself is right on {percent(study["accuracy"])} of these problems, '
                'which bounds everything else'
            )
        )
    found.append(
        sentence(
            f'neurons outside a circuit {ABLATED[study["ablation"]]}; other kinds of '
            'ablation may give other numbers'
        )
    )
    return found
