"""What was found in the teacher: one sentence for each part, drawn from the numbers of the run.

No sentence is canned: what is more, less or not told apart comes from `comparisons`, and a
negative result is worded as plainly as a positive one. All functions are pure.
"""

from collections.abc import Mapping
from typing import Any

from cdjax.circuits.methods import LEARNED
from cdjax.report.comparisons import (
    LESS,
    MORE,
    SAME,
    Difference,
    at_circuit_size,
    difference,
    overlap_difference,
)
from cdjax.wording import (
    NBSP,
    count,
    exact_percent,
    listing,
    number,
    percent,
    percent_interval,
    points,
    points_interval,
    sentence,
)

Results = Mapping[str, Any]


def data(results: Results, config: Results) -> str:
    """Says on what the run was judged."""
    facts, study = results['data'], results['circuits']
    students = min(facts['test'], config['arms']['max_problems'])
    if config['inputs'].get('random_weights'):
        return sentence('all weights are random: the times are real, and no figure means anything')
    return sentence(
        f'circuits are judged on {study["problems"]:,} and students on {students:,} of the '
        f'{count(facts["test"], "problem")} whose canonical forms were held out from discovery '
        'and distillation'
    )


def circuits(study: Results) -> str:
    """Says how much the circuits keep of the accuracy, against every other method at equal size."""
    at = at_circuit_size(study)
    ours = study['curves'][LEARNED.key][at]
    classes = len(study['layer_share'])
    what = f'circuits of {count(classes, "learned class", "learned classes")}'
    head = (
        f'with only {exact_percent(study["shares"][at])} of its neurons, the {what}, the teacher '
        f'answers {percent(ours["only"])} of unseen problems right '
        f'({percent(study["accuracy"])} with all of them)'
    )
    return sentence(head + _against(study, at, 'only'))


def without_circuits(study: Results) -> str:
    """Says how much is lost without the circuits, against every other method at equal size."""
    at = at_circuit_size(study)
    ours = study['curves'][LEARNED.key][at]['without']
    head = f'without its circuits, the teacher answers {percent(ours)}'
    return sentence(head + _against(study, at, 'without'))


def one_mask(study: Results) -> str | None:
    """Compares the circuits with one mask as large as all of them together; None without it."""
    other = study['one_mask_at_union_size']
    if other is None:
        return None
    ours = study['curves'][LEARNED.key][at_circuit_size(study)]
    verdict = difference(
        ours['only'], ours['only_interval'], other['only'], other['only_interval']
    ).verdict
    words = {
        MORE: 'and the circuits keep more',
        LESS: 'which is more than the circuits keep',
        SAME: 'which is not told apart from what the circuits keep',
    }[verdict]
    return sentence(
        f'one mask for all problems that is as large as all circuits together '
        f'({exact_percent(study["union_size"] / study["neurons"])} of the neurons) keeps '
        f'{percent(other["only"])} {percent_interval(other["only_interval"])}, {words} '
        f'({percent(ours["only"])})'
    )


def smallest_share(results: Results) -> str:
    """Says from which size on the circuits keep 95 % of the accuracy."""
    share, shares = results['smallest_faithful_share'], results['circuits']['shares']
    if share is None:
        return sentence(
            f'at none of the sizes tried, up to {exact_percent(max(shares))} of the neurons, do '
            f'the circuits keep {percent(0.95)} of the accuracy of the whole model'
        )
    smallest = ', the smallest size tried' if share == min(shares) else ''
    return sentence(
        f'the circuits keep {percent(0.95)} of the accuracy of the whole model from '
        f'{exact_percent(share)} of the neurons on{smallest}'
    )


def leak(study: Results) -> str | None:
    """Says what the choice of the class gives away of the answer; None for a single class."""
    ours, at = study['leak'][LEARNED.classes], at_circuit_size(study)
    if not ours['most_bits']:
        return None
    point = study['curves'][LEARNED.key][at]
    constant = ours['constant_answer_accuracy']
    explains = (
        'less than the circuits keep, so the class alone does not explain it'
        if point['only_interval'][0] > constant
        else 'so that what the circuits keep may come from the choice of the class alone'
    )
    # The plug-in estimate is biased upwards, by far where answers are many and problems few.
    chance = number(ours['chance_bits'])
    return sentence(
        f'the class of a problem carries {number(ours["bits"])} bits of its answer (of '
        f'{number(ours["most_bits"])} that it could; permuted, they seem to carry {chance}), and '
        f'one constant answer for each class would be right on {percent(constant)}, {explains}'
    )


def layers(study: Results) -> str:
    """Says where the circuits lie, and how far they overlap."""
    share = study['layer_share']
    totals = [sum(row[layer] for row in share) for layer in range(len(share[0]))]
    largest = max(range(len(totals)), key=totals.__getitem__)
    part = totals[largest] / sum(totals) if sum(totals) else 0.0
    head = f'layer {largest} holds {percent(part)} of the neurons of the circuits'
    if len(totals) == 1:
        head = 'all neurons of the circuits lie in the only layer'
    found = overlap_difference(study)
    if found is None:
        return sentence(head)
    words = {
        MORE: 'more than random masks of their size',
        LESS: 'less than random masks of their size',
        SAME: 'as much as random masks of their size',
    }[found.verdict]
    return sentence(
        f'{head}, and two circuits have on average {percent(found.value + study["chance_overlap"])}'
        f' of their union in common, {words} ({percent(study["chance_overlap"])})'
    )


def selectivity(study: Results) -> str:
    """Says whether a circuit matters to its own class more than to the others."""
    found = study['selectivity']
    if found['interval'] is None:
        return sentence(
            'selectivity is not defined, for fewer than two classes hold problems that are measured'
        )
    own = Difference(found['selectivity'], tuple(found['interval']))
    diagonal = [row[j] for j, row in enumerate(found['matrix']) if row[j] is not None]
    mean = sum(diagonal) / len(diagonal)
    head = (
        f'without the circuit of their own class {percent(mean)} of the problems are right, '
        f'without that of another class {percent(mean + own.value)}'
    )
    amount = f'{points(own.value)} points {points_interval(own.interval)}'
    random = Difference(found['random_selectivity'], tuple(found['random_interval']))
    if own.verdict == SAME:
        return sentence(f'{head}: no selectivity is shown ({amount})')
    if own.verdict == LESS:
        return sentence(
            f'{head}: the circuits matter more to other classes than to their own ({amount})'
        )
    # Of random masks the expectation is zero: what counts is that theirs lies below.
    beyond = own.interval[0] > random.interval[1]
    tail = 'more than' if beyond else 'but not told apart from'
    return sentence(
        f'{head}: the circuits are selective by {amount}, {tail} random masks of their size '
        f'({points(random.value)})'
    )


def classes(study: Results) -> str:
    """Says which known structure of the problems the classes follow."""
    counts = study['selectivity']['counts']
    used = sum(n > 0 for n in counts)
    if used < 2:
        return sentence(
            f'{count(used, "class", "classes")} of {len(counts)} holds all problems measured, so '
            'there is nothing that could agree with known structure'
        )
    ranked = sorted(study['classes'].items(), key=lambda item: -item[1]['nmi'])
    above = [(label, a) for label, a in ranked if a['nmi'] > a['chance_nmi']]
    below = [label for label, a in ranked if a['nmi'] <= a['chance_nmi']]
    empty = f'; {count(len(counts) - used, "class", "classes")} of {len(counts)} stayed empty'
    empty = empty if used < len(counts) else ''
    if not ranked:
        return sentence(f'the problems have no known structure to compare the classes with{empty}')
    if not above:
        return sentence(
            f'the classes agree with no known structure ({listing(below)}) beyond what permuted '
            f'classes reach{empty}'
        )
    label, best = above[0]
    head = (
        f'of all known structure, the classes agree most with {label} (NMI {number(best["nmi"])}, '
        f'ARI {number(best["ari"])}; 95{NBSP}% of permuted classes stay below NMI '
        f'{number(best["chance_nmi"])})'
    )
    if len(above) > 1:
        rest = [f'{name} ({number(a["nmi"])})' for name, a in above[1:]]
        head += f', then with {listing(rest)}'
    if below:
        head += f', and not beyond chance with {listing(below)}'
    return sentence(head + empty)


def _against(study: Results, at: int, field: str) -> str:
    """Returns the clause that sorts other methods by verdict, '' where there are none."""
    ours = study['curves'][LEARNED.key][at]
    verdicts: dict[str, list[str]] = {MORE: [], SAME: [], LESS: []}
    for key, curve in study['curves'].items():
        if key == LEARNED.key:
            continue
        other = curve[at]
        gap = difference(
            ours[field], ours[f'{field}_interval'], other[field], other[f'{field}_interval']
        )
        verdicts[gap.verdict].append(f'{study["methods"][key]["phrase"]} ({percent(other[field])})')
    what = 'with' if field == 'only' else 'without'
    phrases = {MORE: f'more than {what}', LESS: f'less than {what}', SAME: 'not told apart from'}
    clauses = [f'{phrases[v]} {listing(verdicts[v])}' for v in phrases if verdicts[v]]
    return f': {"; ".join(clauses)}' if clauses else ''
