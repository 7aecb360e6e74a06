"""report.html: one file about a run that opens without a network."""

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jinja2
from etils import epath

from cdjax import wording
from cdjax.distillation.headroom import CLOSE
from cdjax.distillation.patched_headroom import MOSTLY
from cdjax.errors import InputError
from cdjax.report import findings, maps, summary, tables
from cdjax.report.arm_dots import arm_dots
from cdjax.report.arm_figures import knowable_text, weights_text
from cdjax.report.chart import Chart, plain
from cdjax.report.comparisons import at_circuit_size
from cdjax.report.figure_dots import cost_dots, mechanism_dots
from cdjax.report.headroom import contribution_text
from cdjax.report.method_curves import method_curves
from cdjax.report.names import TEMPLATES, arm_name, compared_name, start_name
from cdjax.report.neuron_cards import neuron_cards
from cdjax.report.problem_curves import problem_curves
from cdjax.report.provenance import describe
from cdjax.report.recovery_dots import recovery_dots
from cdjax.report.selectivity_curves import selectivity_front
from cdjax.report.training_curves import arm_curves, discovery_curves, gradient_rows
from cdjax.run.folder import stored_config, write_atomically
from cdjax.run.metrics import read_metrics
from cdjax.run.provenance import read_provenance
from cdjax.run.results import from_text
from cdjax.studies.arms import EQUIVALENT, REACH
from cdjax.studies.extra import STUDIES
from cdjax.studies.places import Places, student_name
from cdjax.studies.study import Section, Table

REPORT, RESULTS = 'report.html', 'results.json'
DISCOVERY = 'discover/teacher'


def write_report(workdir: epath.PathLike, results: Mapping[str, Any]) -> epath.Path:
    """Writes the report of a finished run, on process 0.

    Args:
        workdir: the folder of the run, for its config.json and the metrics of its discovery.
        results: what `Pipeline.run` returns.

    Returns:
        The path of report.html.
    """
    target = epath.Path(workdir) / REPORT
    if jax.process_index() == 0:
        write_atomically(target, run_page(workdir, results))
    return target


def run_page(workdir: epath.PathLike, results: Mapping[str, Any]) -> str:
    """Returns the report of a finished run, see `write_report`.

    Raises:
        InputError: the folder is that of no run.
    """
    workdir = epath.Path(workdir)
    config = stored_config(workdir)
    if config is None:
        raise InputError(f'{workdir} holds no config.json, so it is no run: name its --workdir')
    places = Places(workdir)
    trainings = [DISCOVERY, *(f'distill/{name}' for name in kept_students(config))]
    histories = {name: read_metrics(places.training(name)) for name in trainings}
    return render(results, config, histories, read_provenance(workdir))


def read_results(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the stored results of a finished pipeline.

    Raises:
        InputError: there are none, or they are damaged.
    """
    path = epath.Path(workdir) / RESULTS
    if path.parent.is_file():
        raise InputError(f'{workdir} is a file: name the folder of the run')
    if not path.exists():
        raise InputError(
            f'{path} does not exist, so there is nothing to report: run python -m '
            'experiments.pipeline or experiments.compare_arms with that --workdir to its end'
        )
    results = from_text(path.read_text(), path)
    if not all('faithful' in found for found in results.get('rediscovery', {}).values()):
        raise InputError(
            f'{path} is of an earlier version, which told less of circuits that are found again: '
            'run its command again, which computes what is missing'
        )
    return results


def render(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Returns the page.

    Args:
        results: what `Pipeline.run` returns.
        config: the run's config.json.
        histories: the records of metrics.jsonl by training, `discover/teacher` of the teacher's.
        provenance: the run's provenance.json, None where there is none.
    """
    study, history = results['circuits'], histories.get(DISCOVERY, ())
    charts = _charts(results, config, history)
    cards = neuron_cards(results['neurons'])
    studies = [_study(key, result) for key, result in results['studies'].items()]
    drawn = [*filter(None, charts.values()), *(card.chart for card in cards)]
    drawn += [chart for study in studies for chart in study['charts']]
    return (
        environment()
        .get_template('page.html')
        .render(
            results=results,
            study=study,
            config=config,
            config_text=json.dumps(config, indent=2),
            version=package_version(),
            at=at_circuit_size(study),
            sections=_sections(studies, cards, students=bool(results['starts'])),
            headline=summary.headline(results),
            found=_found(results),
            checks=summary.checks(results),
            tables=tables,
            equivalent=EQUIVALENT,
            reach=REACH,
            close=CLOSE,
            mostly=MOSTLY,
            chart=charts,
            charts=drawn,
            cards=cards,
            history=history,
            gradients=gradient_rows(histories),
            limits=findings.limits(results, config),
            provenance=describe(config, provenance, study['family']),
            studies=studies,
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Returns what the pages are made with: their templates, filters and sentences."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(wording, name) for name in findings.FILTERS}
    environment.filters |= {'verdict': tables.verdict_words, 'plain': plain}
    environment.globals |= {'say': findings.say, 'start_name': start_name, 'arm_name': arm_name}
    environment.globals |= {'compared_name': compared_name, 'knowable_text': knowable_text}
    environment.globals |= {'contribution_text': contribution_text, 'weights_text': weights_text}
    return environment


def _sections(studies, cards, *, students: bool) -> list[tuple[str, str]]:
    """Returns the sections of the page in their order: (identity, title)."""
    return [
        ('summary', 'Summary'),
        ('run', 'What was run'),
        ('circuits', 'Circuits'),
        ('layers', 'Layers and overlap'),
        ('selectivity', 'Selectivity'),
        *([('neurons', 'Neurons')] if cards else []),
        ('classes', 'Classes'),
        ('training', 'Training'),
        *([('arms', 'Arms of distillation'), ('moved', 'What moved')] if students else []),
        *((f'study-{study["key"]}', study['title']) for study in studies),
        ('reading', 'How to read this'),
    ]


def _found(results) -> list[tuple[str, str | None]]:
    """Returns the findings of the summary: (section, sentence)."""
    study, say = results['circuits'], findings.say
    return [
        ('circuits', say('circuits', study)),
        ('circuits', say('without_circuits', study)),
        ('selectivity', say('selectivity', study)),
        ('classes', say('classes', study)),
        *(('arms', say('arms', start, found)) for start, found in results['starts'].items()),
        *([('moved', say('moved', results['rediscovery']))] if results['starts'] else []),
    ]


def _charts(results, config, history) -> dict[str, Chart | None]:
    study, starts = results['circuits'], results['starts']
    selectivity = study['selectivity']
    charts = {
        'methods': method_curves(study),
        'recovery': recovery_dots('recovery', study.get('ground_truth'), study['methods']),
        'layers': maps.layer_map(study),
        'front': selectivity_front(study),
        'selectivity': maps.selectivity_maps(
            'selectivity',
            {'Circuits': selectivity['matrix'], 'Random masks': selectivity['random_matrix']},
            'Accuracy in per cent on the problems of class k (columns) with circuit j ablated '
            '(rows), beside random masks of the same size in each layer, on one scale. Selective '
            'circuits have a dark diagonal in a bright map.',
        ),
        'discovery': discovery_curves(history, config['discovery']['objective']['key']),
        'moved': None,
        'similarity': maps.similarity_maps(results['layer_similarity']),
    }
    charts |= charts_of_starts(starts)
    if results['rediscovery']:
        matrices = {}
        # Students of another start belong to circuits discovered anew, jointly with them.
        if next(iter(starts)) == 'nothing':
            matrices['Teacher'] = selectivity['specific_probability_matrix']
        for found in results['rediscovery'].values():
            of_student = found['study']['selectivity']['specific_probability_matrix']
            matrices[f'Student: {found["phrase"]}'] = of_student
        charts['moved'] = maps.selectivity_maps(
            'moved',
            matrices,
            'Probability of the answer in per cent on class k (columns) with the specific part of '
            'circuit j ablated (rows). The students were searched again, for the teacher’s '
            'classes.',
            of='probability of the answer',
            without='specific part',
        )
    return charts


def charts_of_starts(starts: Mapping[str, Any]) -> dict[str, Chart | None]:
    """Returns the figures of all students, by name; None of those that have nothing to show.

    Args:
        starts: what `Pipeline.compare_arms` returns.
    """
    charts = {}
    for start, found in starts.items():
        charts[f'arms-{start}'] = arm_curves(start, found)
        charts[f'dots-{start}'] = arm_dots(start, found)
        charts[f'problems-{start}'] = problem_curves(start, found)
        charts[f'costs-{start}'] = cost_dots(start, found)
        charts[f'mechanism-{start}'] = mechanism_dots(start, found)
    return charts


def _study(key: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns title, findings, tables and figures of a study; those of a stranger are a note."""
    if key not in STUDIES:
        note = f'The module that added the study {key!r} is not imported: name it with --plugins.'
        return {'key': key, 'title': key, 'section': Section([note]), 'charts': []}
    section = STUDIES[key].present(result)
    charts = []
    for i, drawing in enumerate(section.drawings):
        table = drawing.numbers or next(iter(section.tables), Table('', (), ()))
        chart = Chart(f'{key}-{i}', drawing.caption, table.header, table.rows)
        size = (drawing.width, drawing.height)
        with chart.panel('', drawing.description, size) as figure:
            drawing.draw(figure)
        charts.append(chart)
    told = list(section.findings)
    for i, recovery in enumerate(section.recoveries):
        told.append(findings.say('recovery', recovery.found, recovery.methods))
        charts.append(recovery_dots(f'{key}-recovery-{i}', recovery.found, recovery.methods))
    section = dataclasses.replace(section, findings=told)
    return {'key': key, 'title': STUDIES[key].title, 'section': section, 'charts': charts}


def kept_students(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of the students of the first seed, whose trainings are shown."""
    arms = config['arms']
    seed = arms['seeds'][0]
    return [
        student_name(start, arm, seed) for start in arms['distillation'] for arm in arms['arms']
    ]


def package_version() -> str:
    """Returns the version of this package, or that it has none."""
    try:
        return importlib.metadata.version('cdjax')
    except importlib.metadata.PackageNotFoundError:
        return 'from a checkout that is not installed'
