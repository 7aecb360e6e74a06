"""report.html of a finished table of arms: the students' sections, for there are no others."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from cdjax.distillation.headroom import CLOSE
from cdjax.distillation.patched_headroom import MOSTLY
from cdjax.errors import InputError
from cdjax.report import findings, summary, tables
from cdjax.report.provenance import describe
from cdjax.report.write import (
    RESULTS,
    charts_of_starts,
    environment,
    package_version,
)
from cdjax.run.folder import stored_config
from cdjax.run.provenance import read_provenance
from cdjax.run.results import from_text
from cdjax.studies.arms import EQUIVALENT, REACH
from cdjax.studies.pipeline import TABLE

ARMS_RESULTS = 'arms.json'


def holds_table(workdir: epath.PathLike) -> bool:
    """Returns whether a folder is that of a table of arms that has come to its end once."""
    workdir = epath.Path(workdir)
    return (workdir / ARMS_RESULTS).exists() and not (workdir / RESULTS).exists()


def read_table(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the stored table of a folder of which `holds_table`, by start.

    Raises:
        InputError: it is damaged.
    """
    path = epath.Path(workdir) / ARMS_RESULTS
    return from_text(path.read_text(), path)['starts']


def table_page(workdir: epath.PathLike, starts: Mapping[str, Any]) -> str:
    """Returns the report of a finished table of arms.

    Args:
        workdir: the folder of the run, for its config.json and its provenance.json.
        starts: what `Pipeline.compare_arms` returns.

    Raises:
        InputError: the folder is that of no table of arms.
    """
    workdir = epath.Path(workdir)
    config = stored_config(workdir)
    if config is None or config.get('name') != TABLE:
        raise InputError(
            f'{workdir} holds {ARMS_RESULTS} without the config.json of a table of arms: name '
            'the --workdir of experiments.compare_arms'
        )
    return render_arms(starts, config, read_provenance(workdir))


def render_arms(
    starts: Mapping[str, Any],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Returns the page.

    Args:
        starts: what `Pipeline.compare_arms` returns.
        config: the run's config.json.
        provenance: the run's provenance.json, None where there is none.
    """
    table = next(iter(starts.values()))['table']
    # Arms and seeds may be added to a table, and config.json has none of them.
    run = {'arms': [row['arm'] for row in table], 'seeds': table[0]['seeds']}
    told = {**config, 'arms': {**config['arms'], **run}}
    # What the sections read of a pipeline's results.
    results = {'starts': starts, 'rediscovery': {}}
    charts = charts_of_starts(starts)
    moved = any(charts[f'mechanism-{start}'] for start in starts)
    sections = [
        ('summary', 'Summary'),
        ('run', 'What was run'),
        ('training', 'Training'),
        ('arms', 'Arms of distillation'),
        *([('moved', 'What moved')] if moved else []),
        ('reading', 'How to read this'),
    ]
    return (
        environment()
        .get_template('arms.html')
        .render(
            results=results,
            config=config,
            config_text=json.dumps(told, indent=2),
            version=package_version(),
            sections=sections,
            headline=summary.headline_of_starts(starts),
            found=[('arms', findings.say('arms', *one)) for one in starts.items()],
            checks=[*summary.checks_of_students(results)],
            tables=tables,
            equivalent=EQUIVALENT,
            reach=REACH,
            close=CLOSE,
            mostly=MOSTLY,
            chart=charts,
            charts=[*filter(None, charts.values())],
            limits=findings.limits_of_table(results),
            provenance=describe(config, provenance),
        )
    )
