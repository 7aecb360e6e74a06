"""report.html: one file about a run that opens without a network."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jinja2
from etils import epath

from cdjax import wording
from cdjax.circuits.methods import LEARNED, RANDOM_MASKS
from cdjax.distillation.arms import CIRCUITS, KD, RANDOM
from cdjax.errors import InputError
from cdjax.report import figures, findings, maps, student_findings, tables
from cdjax.report.comparisons import arm_difference, at_circuit_size
from cdjax.run.folder import stored_config, write_atomically
from cdjax.run.metrics import read_metrics
from cdjax.run.results import from_text
from cdjax.studies.extra import STUDIES
from cdjax.studies.study import Section

REPORT, RESULTS = 'report.html', 'results.json'


def write_report(workdir: epath.PathLike, results: Mapping[str, Any]) -> epath.Path:
    """Writes the report of a finished run, on process 0.

    Args:
        workdir: the folder of the run, for its config.json and the metrics of its discovery.
        results: what `Pipeline.run` returns.

    Returns:
        The path of report.html.
    """
    workdir = epath.Path(workdir)
    target = workdir / REPORT
    if jax.process_index() == 0:
        config = stored_config(workdir)
        if config is None:
            raise InputError(f'{workdir} holds no config.json, so it is no run: name its --workdir')
        history = read_metrics(workdir / 'stages' / 'discover' / 'teacher')
        write_atomically(target, render(results, config, history))
    return target


def read_results(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the stored results of a finished pipeline.

    Raises:
        InputError: there are none, or they are damaged.
    """
    path = epath.Path(workdir) / RESULTS
    if not path.exists():
        raise InputError(
            f'{path} does not exist, so there is nothing to report: run python -m '
            'experiments.pipeline with that --workdir to its end'
        )
    return from_text(path.read_text(), path)


def render(
    results: Mapping[str, Any], config: Mapping[str, Any], history: list[dict[str, float]]
) -> str:
    """Returns the page.

    Args:
        results: what `Pipeline.run` returns.
        config: the run's config.json.
        history: the records of the discovery's metrics.jsonl.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        'percent': wording.percent,
        'exact_percent': wording.exact_percent,
        'percent_interval': wording.percent_interval,
        'points': wording.points,
        'points_interval': wording.points_interval,
        'number': wording.number,
        'count': wording.count,
        'verdict': tables.verdict_words,
    }
    study = results['circuits']
    return environment.get_template(REPORT).render(
        results=results,
        study=study,
        config=config,
        config_text=json.dumps(config, indent=2),
        version=_version(),
        at=at_circuit_size(study),
        headline=_headline(results),
        findings=findings,
        student_findings=student_findings,
        tables=tables,
        figure=_figures(results, history),
        history=history,
        studies=[_study(key, result) for key, result in results['studies'].items()],
    )


def _study(key: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns title, findings, tables and figures of a study; those of a stranger are a note."""
    if key not in STUDIES:
        note = f'The module that added the study {key!r} is not imported: name it with --plugins.'
        return {'key': key, 'title': key, 'section': Section([note]), 'figures': []}
    section = STUDIES[key].present(result)
    drawn = [
        (figures.draw(f'{key}-{i}', drawing), drawing.caption)
        for i, drawing in enumerate(section.drawings)
    ]
    return {'key': key, 'title': STUDIES[key].title, 'section': section, 'figures': drawn}


def _version() -> str:
    try:
        return importlib.metadata.version('cdjax')
    except importlib.metadata.PackageNotFoundError:
        return 'from a checkout that is not installed'


def _headline(results) -> list[tuple[str, str, str]]:
    """Returns the numbers at the top of the page: (value, what it is, beside what)."""
    study = results['circuits']
    at = at_circuit_size(study)
    points = {key: curve[at] for key, curve in study['curves'].items()}
    ours, random = points.pop(LEARNED.key), points.get(RANDOM_MASKS.key)
    # Beside the weakest control stands the strongest, or the number would flatter.
    best = max(points, key=lambda key: points[key]['only'], default=None)
    shown = [key for key in (RANDOM_MASKS.key, best) if key in points]
    beside = wording.listing(
        [
            f'{study["methods"][key]["phrase"]} {wording.percent(points[key]["only"])}'
            for key in dict.fromkeys(shown)
        ]
    )
    size = wording.exact_percent(study['shares'][at])
    cells = [
        (wording.percent(study['accuracy']), 'teacher on unseen problems', 'all neurons'),
        (
            wording.percent(ours['only']),
            f'with only the circuits, {size} of the neurons',
            beside,
        ),
        (
            wording.percent(ours['without']),
            'without the circuits',
            '' if random is None else f'without random masks {wording.percent(random["without"])}',
        ),
    ]
    for start, found in results['starts'].items():
        gap = arm_difference(found['runs'], CIRCUITS.key, KD.key)
        if gap is None:
            continue
        beside = 'one seed, no interval'
        if gap.interval is not None:
            beside = f'95{wording.NBSP}% interval {wording.points_interval(gap.interval)}'
        other = arm_difference(found['runs'], CIRCUITS.key, RANDOM.key)
        if other is not None:
            beside += f'; over random masks {wording.points(other.value)}'
            beside += f' {wording.points_interval(other.interval)}' if other.interval else ''
        what = f'points: class circuits over KD, from {student_findings.start_name(start)}'
        cells.append((wording.points(gap.value), what, beside))
    return cells


def _figures(results, history) -> dict[str, Any]:
    study = results['circuits']
    selectivity = study['selectivity']
    starts = results['starts']
    drawn = {
        'circuits': figures.circuit_curves(study),
        'layers': maps.layer_map(study),
        'selectivity': maps.selectivity_maps(
            'selectivity',
            {'Circuits': selectivity['matrix'], 'Random masks': selectivity['random_matrix']},
            selectivity['counts'],
        ),
        'discovery': figures.discovery_curves(history),
        'arms': figures.arm_curves(starts),
        'dots': {start: figures.arm_dots(start, found) for start, found in starts.items()},
        'moved': None,
    }
    if results['rediscovery']:
        matrices = {}
        # Students of another start belong to circuits discovered anew, jointly with them.
        if next(iter(starts)) == 'nothing':
            matrices['Teacher'] = selectivity['matrix']
        for found in results['rediscovery'].values():
            matrices[f'Student: {found["phrase"]}'] = found['study']['selectivity']['matrix']
        drawn['moved'] = maps.selectivity_maps('moved', matrices, selectivity['counts'])
    return drawn
