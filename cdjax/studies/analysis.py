"""The analysis of a table of arms: what was decided beforehand, and tables taken together."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from cdjax.distillation.arms import ARMS, KD
from cdjax.errors import InputError
from cdjax.evaluation.statistics import cluster_interval, equivalence_p, paired_difference
from cdjax.run.folder import stored_config
from cdjax.run.results import from_text
from cdjax.studies.arms import EQUIVALENT, REACH, ArmsConfig
from cdjax.studies.places import Places

ENDPOINT = 'unseen'  # accuracy on problems of unseen forms after the last step


def analysis_hash(config: ArmsConfig) -> str:
    """Returns a hash of what a table decides beforehand, 16 hexadecimal digits.

    Arms, seeds, starts, the distillation, the primary comparison, its endpoint, the difference that
    would not matter and the accuracy whose steps are compared.
    """
    decided = dataclasses.asdict(config) | {
        'endpoint': ENDPOINT,
        'equivalent': EQUIVALENT,
        'reach': REACH,
    }
    del decided['mechanism']  # looked at afterwards, and changes nothing
    text = json.dumps(decided, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def primary_comparison(
    runs: Sequence[Mapping[str, Any]], config: ArmsConfig
) -> dict[str, Any] | None:
    """Returns the comparison that a table was made for, None where none was decided on.

    Args:
        runs: of all students of one start.
        config: the arms.

    Returns:
        `arm`, `against` and `endpoint`; `seeds` that both have; the mean `difference`, paired by
        seed, its Student's t `interval`, `p`, and `p_equivalent` of a difference within ±1 point
        (None with one seed); and `analysis`, the hash of what was decided.
    """
    if config.primary is None:
        return None
    of = {(run['arm'], run['seed']): run[ENDPOINT] for run in runs}
    arm, against = config.primary
    seeds = [seed for seed in config.seeds if (arm, seed) in of and (against, seed) in of]
    paired = [of[arm, seed] - of[against, seed] for seed in seeds]
    return {
        'arm': arm,
        'against': against,
        'endpoint': ENDPOINT,
        'seeds': seeds,
        **paired_difference(paired),
        'p_equivalent': equivalence_p(paired, EQUIVALENT),
        'analysis': analysis_hash(config),
    }


def pooled_table(workdirs: Sequence[epath.PathLike], start: str) -> list[dict[str, Any]]:
    """Returns the gains over KD of several tables taken together, one row an arm.

    Each table has circuits of its own, of another discovery seed or another teacher: the unit is
    table × student seed, and the interval a bootstrap of tables and of students within them.

    Args:
        workdirs: of tables that are finished, or as far as they have come.
        start: where students start from.

    Returns:
        `arm`, `title`, `tables`, `students`, `gain`, `interval` (None of one table) and `by_table`.

    Raises:
        InputError: a folder that holds no table, or tables whose students differ in more than the
            teacher and the seed of its discovery.
    """
    tables = [_read_runs(epath.Path(path), start) for path in workdirs]
    _refuse_other_students(workdirs)
    rows = []
    for arm in dict.fromkeys(arm for table in tables for arm, _ in table):
        if arm == KD.key:
            continue
        gains = [
            [value - table[KD.key, seed] for (a, seed), value in table.items() if a == arm]
            for table in tables
            if any(a == arm for a, _ in table)
        ]
        title = ARMS[arm].title if arm in ARMS else arm
        rows.append(
            {
                'arm': arm,
                'title': title,
                'tables': len(gains),
                'students': sum(map(len, gains)),
                'gain': float(np.mean([np.mean(table) for table in gains])),
                'interval': cluster_interval(gains),
                'by_table': [float(np.mean(table)) for table in gains],
            }
        )
    return rows


def check_pool(workdirs: Sequence[epath.PathLike]) -> None:
    """Raises InputError for a folder without a table of arms; to be asked before one is made."""
    for path in workdirs:
        if 'arms' not in (stored_config(epath.Path(path)) or {}):
            raise InputError(f'pool={path} holds no table of arms: name the --workdir of one')


def _read_runs(workdir: epath.Path, start: str) -> dict[tuple[str, int], float]:
    """Returns (arm, seed) → accuracy of the students that a table has, those beside KD."""
    told = Places(workdir).result('arms', f'{start}-*')
    files = sorted(told.parent.glob(told.name))
    runs = [from_text(path.read_text(), path) for path in files]
    of = {(run['arm'], run['seed']): run[ENDPOINT] for run in runs}
    paired = {key: value for key, value in of.items() if (KD.key, key[1]) in of}
    if len({arm for arm, _ in paired}) < 2:
        raise InputError(
            f'pool={workdir} holds no students from {start} of kd and another arm of one seed: '
            'name the --workdir of a table of arms'
        )
    return paired


def _refuse_other_students(workdirs: Sequence[epath.PathLike]) -> None:
    """Raises InputError for tables whose students are not distilled alike."""
    first = None
    for path in workdirs:
        config = stored_config(epath.Path(path)) or {}
        arms, inputs = config.get('arms', {}), config.get('inputs', {})
        alike = {
            'distillation': arms.get('distillation'),
            'alignment': arms.get('alignment'),
            'data': inputs.get('data'),
            'share': inputs.get('share'),
            'layer_pairs': config.get('layer_pairs'),
        }
        first = alike if first is None else first
        differing = [name for name, value in alike.items() if value != first[name]]
        if differing:
            raise InputError(
                f'pool={path} has other {", ".join(differing)} than {workdirs[0]}: only the '
                'teacher and the seed of its discovery may differ'
            )
