"""The table that ends a pipeline on the terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

from cdjax.circuits.methods import LEARNED
from cdjax.report.arm_figures import costs_table, flops_table, mechanism_table, problems_table
from cdjax.report.comparisons import at_circuit_size
from cdjax.report.findings import say
from cdjax.report.names import start_name
from cdjax.report.tables import (
    TESTS,
    arm_rows,
    circuit_rows,
    headroom_rows,
    moved_rows,
    significance_rows,
)
from cdjax.studies.arms import EQUIVALENT, REACH
from cdjax.studies.extra import STUDIES
from cdjax.wording import (
    ABSENT,
    NBSP,
    count,
    exact_percent,
    number,
    percent,
    percent_interval,
    points,
    points_interval,
)

WIDTH = 100
_SEEDS_SHOWN = 5


def summary(results: Mapping[str, Any]) -> str:
    """Returns the numbers of a pipeline as plain text of at most 100 columns.

    Args:
        results: what `Pipeline.run` returns.
    """
    parts = [
        circuits_table(results['circuits'], results['smallest_faithful_share']),
        recovery_table(results['circuits']),
        headroom_table({start: found['headroom'] for start, found in results['starts'].items()}),
        arms_table(results['starts']),
        _text(_rediscovery(results['rediscovery'])),
        students_tables(results['starts']),
        *(_text(_study(key, result)) for key, result in results['studies'].items()),
    ]
    return '\n\n'.join(part for part in parts if part)


def arms_table(starts: Mapping[str, Any]) -> str:
    """Returns the accuracy of every arm by seed, a table for each start.

    Args:
        starts: what `Pipeline.compare_arms` returns.
    """
    return '\n\n'.join(_text(_arms(start, found)) for start, found in starts.items())


def students_tables(starts: Mapping[str, Any]) -> str:
    """Returns what is told of students beside their accuracy, as far as it was measured.

    Args:
        starts: what `Pipeline.compare_arms` returns.
    """
    tables = (
        problems_table(starts),
        flops_table(starts),
        costs_table(starts),
        mechanism_table(starts),
    )
    return '\n\n'.join(table for table in tables if table).replace(NBSP, ' ')


def headroom_table(headroom: Mapping[str, Any]) -> str:
    """Returns how alike each arm's target is to that of the class circuits, by start.

    Without that arm, to the target of the first arm that aligns anything.

    Args:
        headroom: what `Pipeline.headroom` returns.
    """
    lines = []
    for start, found in headroom.items():
        told = headroom_rows(found)
        if told is None:
            continue
        base, others = told
        lines.append(f'Headroom, starting from {start_name(start)}: CKA with the target of {base}')
        lines += [f'  {other:<48}{number(value):>6}' for other, value in others]
    return _text(lines)


def kept_line(kept: Mapping[str, int]) -> str:
    """Returns a line on the problems that are kept because the teacher answers them."""
    return f'only correct: {kept["right"]:,} of {kept["of"]:,} problems, those the teacher answers'


def accuracy_table(found: Mapping[str, Any]) -> str:
    """Returns the accuracy by range of operands and number of solved examples.

    Args:
        found: what `cdjax.studies.accuracy.measure_accuracy` returns.
    """
    cells = found['cells']
    shots = list(dict.fromkeys(cell['shots'] for cell in cells))
    head = ''.join(f'{f"{n} shown":>24}' for n in shots)
    title = 'Accuracy by range of operands and solved examples, of whole answers'
    lines = [title, ' ' * 12 + head]
    for low, high in dict.fromkeys((cell['low'], cell['high']) for cell in cells):
        line = f'{f"{low} to {high}":12}'
        for cell in cells:
            if (cell['low'], cell['high']) == (low, high):
                shown = f'{percent(cell["accuracy"])} {percent_interval(cell["interval"])}'
                line += f'{shown:>24}'
        lines.append(line)
    return _text(lines)


def circuits_table(study: Mapping[str, Any], smallest: float | None) -> str:
    """Returns the accuracy with only the circuits and without, beside every other method.

    Args:
        study: what `study_circuits` returns.
        smallest: what `smallest_faithful_share` returns of it.
    """
    return _text(_circuits(study, smallest))


def recovery_table(study: Mapping[str, Any]) -> str:
    """Returns how much of planted circuits each method finds, means over the planted classes.

    Args:
        study: what is measured of a planted teacher's circuits; of any other there is nothing.
    """
    return _text(_recovery(study))


def _recovery(study) -> list[str]:
    truth = study.get('ground_truth')
    if truth is None:
        return []
    columns = {
        'AUROC': 'auroc',
        'living': 'auroc_living',
        'precision': 'precision',
        'recall': 'recall',
        'shared': 'shared',
        'specific': 'specific',
        'others’': 'other_specific',
        'decoys': 'decoys',
        'NMI': 'nmi',
        'kept': 'kept',
    }
    names = {key: study['methods'][key]['title'] for key in truth['methods']}
    width = max(map(len, names.values()))
    lines = [
        f'Planted circuits of {count(truth["classes"], "class", "classes")}, '
        f'{count(truth["size"], "necessary neuron")} each, which keep a probability of '
        f'{number(truth["kept"])}; from precision on at that size:',
        ' ' * width + ''.join(f'{name:>{_width(name)}}' for name in columns),
    ]
    for key, found in truth['methods'].items():
        cells = (f'{number(found[k]):>{_width(name)}}' for name, k in columns.items())
        lines.append(f'{names[key]:<{width}}' + ''.join(cells))
    return lines


def _width(name: str) -> int:
    return max(len(name) + 1, 6)


def _study(key: str, result: Mapping[str, Any]) -> list[str]:
    if key not in STUDIES:
        return []
    study = STUDIES[key]
    section = study.present(result)
    told = [say('recovery', one.found, one.methods) for one in section.recoveries]
    return [study.title, '', *(textwrap.fill(text, WIDTH) for text in (*section.findings, *told))]


def _text(lines: list[str]) -> str:
    return '\n'.join(line.rstrip() for line in lines).replace(NBSP, ' ').strip('\n')


def _circuits(study, smallest) -> list[str]:
    share = study['shares'][at_circuit_size(study)]
    classes = count(len(study['layer_share']), 'class', 'classes')
    lines = [
        f'Circuits of {classes} at {exact_percent(share)} of {study["neurons"]:,} neurons, on '
        f'{count(study["problems"], "unseen problem")} (whole model '
        f'{percent(study["accuracy"], 1)})',
        f'{"":32}{"with only the circuit":>24}{"without it":>24}{"faithfulness":>14}',
    ]
    for row in circuit_rows(study):
        name = row['title']
        if 'share' in row:
            name = f'{name}, {exact_percent(row["share"])} (union)'
        lines.append(
            f'{name:<32}'
            f'{percent(row["only"], 1):>8} {percent_interval(row["only_interval"]):<15}'
            f'{percent(row["without"], 1):>9} {percent_interval(row["without_interval"]):<15}'
            f'{number(row["faithfulness"]):>13}'
        )
    lines += ['', *_sceptic(study), '']
    at = 'at no size tried' if smallest is None else f'from {exact_percent(smallest)} on'
    kept = f'Circuits keep 95 % of the accuracy {at}; selectivity {_selectivity(study)}.'
    lines += textwrap.wrap(kept, WIDTH)
    return lines


def _sceptic(study) -> list[str]:
    """Returns areas, dead neurons and ranks of every method, at the size of the circuits."""
    at = at_circuit_size(study)
    living = study['living']
    lines = [
        f'{"":32}{"P(answer)":>10}{"CPR":>7} {"":14}{"CMD":>6}{"dead":>7}{"rank":>7}'
        f'{"selective":>11}',
    ]
    for key, curve in study['curves'].items():
        areas = study['areas'].get(key)
        cpr, cmd, interval = ABSENT, ABSENT, ''
        if areas is not None:
            cpr, cmd = number(areas['cpr']), number(areas['cmd'])
            interval = f'[{", ".join(number(x) for x in areas["cpr_interval"])}]'
        ranks = study['rank_correlation'].get(key)
        selective = number(_specific_selectivity(study, key))
        rank = ABSENT if ranks is None else number(ranks['living'], signed=True)
        lines.append(
            f'{study["methods"][key]["title"]:<32}{number(curve[at]["only_probability"]):>10}'
            f'{cpr:>7} {interval:<14}{cmd:>6}{percent(curve[at]["dead"]):>7}{rank:>7}'
            f'{selective:>11}'
        )
    blocks = study['minimality']
    lines += [
        f'{living["neurons"]:,} of {study["neurons"]:,} neurons are alive, and alone they answer '
        f'{percent(living["accuracy"], 1)}; ranks, against AtP, are among them.',
        'Selective: specific parts taken out, probability on other classes minus on their own.',
    ]
    lines.append(
        f'{percent(blocks["needless"])} of the circuits’ neurons are in tenths that do not matter.'
    )
    return lines


def _specific_selectivity(study, key: str) -> float | None:
    """Returns that of the specific parts, in probability; None of methods without any."""
    if key != LEARNED.key:
        return study['method_selectivity'].get(key, {}).get('probability')
    own = _at_own_size(study)
    return own['specific']['probability'] if own else None


def _at_own_size(study) -> Mapping[str, Any] | None:
    """Returns the selectivity of the circuits studied at their own size; None of one class."""
    found = study['selectivity']['by_size']
    return next((at for at in found if at['size'] == study['size']), None)


def _selectivity(study) -> str:
    found = study['selectivity']
    text = f'{number(found["selectivity"])} (random masks {number(found["random_selectivity"])})'
    own = _at_own_size(study)
    if own:
        specific = own['specific']
        text += (
            f', of the specific parts ({number(own["specific_neurons"], 1)} neurons) '
            f'{number(specific["accuracy"])}, in probability {number(specific["probability"])}'
        )
    return text


def _arms(start: str, found) -> list[str]:
    seeds = sorted({run['seed'] for run in found['runs']})
    shown = seeds[:_SEEDS_SHOWN]
    lines = [
        f'Starting from {start_name(start)}, accuracy on unseen problems by seed',
        f'{"":36}'
        + ''.join(f'{seed:>6}' for seed in shown)
        + f'{"mean":>8}  gain over KD, points'[: WIDTH - 36 - 6 * len(shown)],
    ]
    for row in arm_rows(found):
        of = dict(zip(row['seeds'], row['accuracies'], strict=True))
        cells = ''.join(f'{percent(of.get(seed), 1).removesuffix(f"{NBSP}%"):>6}' for seed in shown)
        gap = row['difference']
        gain = ''
        if gap is not None:
            gain = points(gap.value)
            gain += f' {points_interval(gap.interval)}' if gap.interval else ' (one seed)'
        lines.append(f'{row["title"]:<36}{cells}{100 * row["mean"]:>8.1f}  {gain}')
    lines += _primary(found) + _dissociation(found)
    if len(seeds) > len(shown):
        lines.append(f'(the first {len(shown)} of {len(seeds)} seeds; means are over all)')
    lines += _tests(found)
    if found['first'] is not None:
        before = ', '.join(percent(value, 1) for value in found['first']['unseen'][:_SEEDS_SHOWN])
        lines.append(f'before distillation: {before}')
    return lines


def _primary(found) -> list[str]:
    """Returns the comparison that was decided on beforehand, if one was."""
    told = found.get('primary')
    if told is None:
        return []
    interval = f' {points_interval(told["interval"])}' if told['interval'] else ''
    p, equal = number(told['p'], 3), number(told['p_equivalent'], 3)
    return textwrap.wrap(
        f'Primary, decided beforehand (analysis {told["analysis"]}): {told["arm"]} minus '
        f'{told["against"]}, {count(len(told["seeds"]), "seed")}: {points(told["difference"])} '
        f'points{interval}, p {p}; within ±1 point: p {equal}',
        WIDTH,
    )


def _dissociation(found) -> list[str]:
    """Returns whether the circuits of two classes move each its own, if that was asked."""
    told = found.get('dissociation')
    if told is None:
        return []
    interval = f' {points_interval(told["interval"])}' if told['interval'] else ''
    text = (
        f'Double dissociation, {count(len(told["seeds"]), "seed")}: what the circuit of each of '
        f'two classes adds to its own class more than to the other, summed: '
        f'{points(told["interaction"])} points{interval}, p {number(told["p"], 3)}'
    )
    if told['gains'] is not None:
        first, second = ([points(gain) for gain in row] for row in told['gains'])
        text += (
            f"; over KD, the first class's circuit {first[0]} there and {first[1]} on the second, "
            f"the second's {second[0]} on the first and {second[1]} there"
        )
    return textwrap.wrap(text, WIDTH)


def pooled_lines(rows) -> str:
    """Returns the gains of several tables taken together, see `studies.analysis.pooled_table`."""
    lines = ['All tables together: gain over KD, points [bootstrap of tables and students]']
    for row in rows:
        interval = f' {points_interval(row["interval"])}' if row['interval'] else ' (one table)'
        of = f'{count(row["tables"], "table")}, {count(row["students"], "student")}'
        lines.append(f'{row["title"]:<36}{points(row["gain"]):>7}{interval:<18}{of:>28}')
    return _text(lines)


def _tests(found) -> list[str]:
    """Returns what tests say of the gains over KD, where there are seeds enough to test them."""
    rows = significance_rows(found)
    if not rows:
        return []
    within = f'p, within ±{exact_percent(EQUIVALENT).removesuffix(f"{NBSP}%")} point'
    reach = f'steps to {exact_percent(REACH)}'
    lines = [f'{"Tests of the gain over KD":<36}{"p":>8}{"Holm":>8}{within:>20}{reach:>16}']
    for row in rows:
        p, corrected, equivalent = (number(row[key], 3) for key in TESTS)
        steps = ABSENT if row['steps'] is None else f'{row["steps"]:,.0f}'
        lines.append(f'{row["title"]:<36}{p:>8}{corrected:>8}{equivalent:>20}{steps:>16}')
    return lines


def _rediscovery(rediscovery) -> list[str]:
    if not rediscovery:
        return []
    lines = [
        f'{"Circuits found again in the students":<40}{"whole":>9}{"with only the circuit":>24}'
        f'{"selectivity r":>16}{"chance":>9}'
    ]
    for row in moved_rows(rediscovery):
        lines.append(
            f'{row["title"]:<40}{percent(row["accuracy"], 1):>9}'
            f'{percent(row["only"], 1):>9} {percent_interval(row["only_interval"]):<14}'
            f'{number(row["correlation"]):>16}{number(row["chance"]):>9}'
        )
    return lines
