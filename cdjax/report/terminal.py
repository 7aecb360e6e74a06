"""The table that ends a pipeline on the terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

from cdjax.circuits.methods import LEARNED
from cdjax.report.comparisons import at_circuit_size
from cdjax.report.findings import say
from cdjax.report.headroom import headroom_table
from cdjax.report.tables import circuit_rows
from cdjax.report.terminal_students import (
    WIDTH,
    arms_table,
    rediscovery_table,
    students_tables,
)
from cdjax.studies.circuits.curves import KEPT
from cdjax.studies.extra import STUDIES
from cdjax.wording import (
    ABSENT,
    count,
    exact_percent,
    number,
    percent,
    percent_interval,
    plain_lines,
)


def summary(results: Mapping[str, Any]) -> str:
    """Returns the numbers of a pipeline as plain text of at most 100 columns.

    Args:
        results: what `Pipeline.run` returns.
    """
    parts = [
        circuits_table(results['circuits'], results['smallest_faithful_share']),
        recovery_table(results['circuits']),
        headroom_table(results['starts'], _primary(results['starts'])),
        arms_table(results['starts']),
        rediscovery_table(results['rediscovery']),
        students_tables(results['starts']),
        *(plain_lines(_study(key, result)) for key, result in results['studies'].items()),
    ]
    return '\n\n'.join(part for part in parts if part)


def arms_summary(starts: Mapping[str, Any]) -> str:
    """Returns the numbers of a table of arms as plain text of at most 100 columns.

    Args:
        starts: what `Pipeline.compare_arms` returns.
    """
    parts = [
        headroom_table(starts, _primary(starts)),
        arms_table(starts),
        students_tables(starts),
    ]
    return '\n\n'.join(part for part in parts if part)


def _primary(starts) -> tuple[str, str] | None:
    """Returns the two arms of the comparison that was decided on beforehand, if one was."""
    told = [found['primary'] for found in starts.values() if 'primary' in found]
    return (told[0]['arm'], told[0]['against']) if told else None


def kept_line(kept: Mapping[str, int]) -> str:
    """Returns a line on the problems that are kept because the teacher answers them."""
    return f'only correct: {kept["right"]:,} of {kept["of"]:,} problems, those the teacher answers'


def sanity_line(judged: Mapping[str, Any]) -> str:
    """Returns how a search ranks neurons, and how much of its circuits is dead."""
    rank, dead = number(judged['rank'], signed=True), percent(judged['dead'], 1)
    return f'rank correlation with AtP {rank} among living neurons; {dead} of the circuits are dead'


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
    return plain_lines(lines)


def circuits_table(study: Mapping[str, Any], smallest: float | None) -> str:
    """Returns the accuracy with only the circuits and without, beside every other method.

    Args:
        study: what `study_circuits` returns.
        smallest: what `smallest_faithful_share` returns of it.
    """
    return plain_lines(_circuits(study, smallest))


def recovery_table(study: Mapping[str, Any]) -> str:
    """Returns how much of planted circuits each method finds, means over the planted classes.

    Args:
        study: what is measured of a planted teacher's circuits; of any other there is nothing.
    """
    return plain_lines(_recovery(study))


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
    first = truth.get('leading')  # which results of before do not have
    if first is not None:
        parts = {'of these neurons': first['shares'], 'keep': first['kept']}
        parts['whole without the others'] = first['without_rest']
        wide = max(map(len, parts))
        lines += ['', 'Of what is planted together in one layer, what the circuits rank first:']
        lines += [
            f'{part:<{wide}}' + ''.join(f'{number(value):>6}' for value in values)
            for part, values in parts.items()
        ]
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
    kept = f'Circuits keep {percent(KEPT)} of the accuracy {at}; selectivity {_selectivity(study)}.'
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
