"""The analysis of a table of arms: what was decided beforehand, and tables taken together."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from cdjax.distillation.arms import ARMS, KD
from cdjax.errors import InputError
from cdjax.evaluation.statistics import (
    cluster_interval,
    equivalence_p,
    few_clusters_interval,
    nested_mean,
    paired_difference,
)
from cdjax.run.folder import stored_config
from cdjax.run.results import from_text
from cdjax.studies.arms import EQUIVALENT, PLANTED, REACH, ArmsConfig
from cdjax.studies.places import Places

ENDPOINT = 'unseen'  # accuracy on problems of unseen forms after the last step
# Of the inputs, what tables that are taken together may differ in: the teacher, and what is only
# measured.
_OF_ONE_TABLE = frozenset(
    ('teacher', 'teacher_weights', 'text', 'text_tokens', 'other_tasks', 'other_data')
)


def analysis_hash(config: ArmsConfig) -> str:
    """Returns a hash of what a table decides beforehand, 16 hexadecimal digits.

    Arms, seeds, starts, the distillation, weights to choose from and their seeds, the primary
    comparison, its endpoint, the difference that would not matter and the accuracy whose steps are
    compared.
    """
    decided = config.decided() | {
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


def pooled_table(
    workdirs: Sequence[epath.PathLike], start: str, primary: tuple[str, str] | None = None
) -> list[dict[str, Any]]:
    """Returns the differences of several tables taken together: the primary one, and from KD.

    Tables have circuits of other discovery seeds or other teachers. Discoveries are nested in their
    teacher, and students in their discovery; means are over teachers of means over discoveries, and
    intervals bootstraps of all three (of one teacher, of its discoveries and their students).

    Args:
        workdirs: of tables that are finished, or as far as they have come.
        start: where students start from.
        primary: the two arms that the tables are made for, None where nothing was decided.

    Returns:
        A row for the primary comparison, and one for each arm but KD: `arm`, `title`, `against`,
        `primary` (a flag), `teachers`, `tables` (discoveries) and `students`, the mean `gain`, its
        `interval` and, of few clusters, Student's `t_interval` over their means (None of one
        table); `clusters`, how many those are, of teachers, or of tables where there is one
        teacher; and `by_table`.

    Raises:
        InputError: a folder that holds no table, tables whose students differ in more than the
            teacher and the seed of its discovery, or that hold the same students.
    """
    tables = [_read_runs(epath.Path(path), start) for path in workdirs]
    check_together(workdirs)
    contrasts = [(arm, KD.key) for arm in dict.fromkeys(a for t in tables for a, _ in t)]
    contrasts = [one for one in contrasts if one[0] != KD.key]
    contrasts = [*([] if primary is None else [primary]), *contrasts]
    for path, table in zip(workdirs, tables, strict=True):
        if not any(_paired(table, *contrast) for contrast in contrasts):
            raise InputError(
                f'pool={path} holds no students from {start} of kd and another arm of one seed: '
                'name the --workdir of a table of arms'
            )
    rows = []
    for i, (arm, against) in enumerate(contrasts):
        of_teacher: dict[Any, list[list[float]]] = {}
        for teacher, table in zip(_teachers(workdirs), tables, strict=True):
            if gains := _paired(table, arm, against):
                of_teacher.setdefault(teacher, []).append(gains)
        if not of_teacher:
            continue
        of_table = [gains for found in of_teacher.values() for gains in found]
        teachers = list(of_teacher.values())
        # Of one teacher nothing is told of others; what varies are its discoveries.
        clusters = teachers if len(teachers) > 1 else teachers[0]
        rows.append(
            {
                'arm': arm,
                'title': ARMS[arm].title if arm in ARMS else arm,
                'against': against,
                'primary': primary is not None and i == 0,
                'teachers': len(teachers),
                'tables': len(of_table),
                'students': sum(map(len, of_table)),
                'gain': nested_mean(clusters),
                'interval': cluster_interval(clusters),
                't_interval': few_clusters_interval([nested_mean(one) for one in clusters]),
                'clusters': len(clusters),
                'by_table': [float(np.mean(gains)) for gains in of_table],
            }
        )
    return rows


def _paired(table: Mapping[tuple[str, int], float], arm: str, against: str) -> list[float]:
    """Returns the differences of two arms of a table, of each seed that both have."""
    seeds = [seed for key, seed in table if key == arm and (against, seed) in table]
    return [table[arm, seed] - table[against, seed] for seed in seeds]


def check_pool(workdirs: Sequence[epath.PathLike]) -> None:
    """Raises InputError for a folder without a table of arms; to be asked before one is made."""
    for path in workdirs:
        if 'arms' not in (stored_config(epath.Path(path)) or {}):
            raise InputError(f'pool={path} holds no table of arms: name the --workdir of one')


def check_together(workdirs: Sequence[epath.PathLike]) -> None:
    """Raises InputError for tables that cannot be taken together; asked before students are made.

    Args:
        workdirs: of tables that are finished, or that have only started.
    """
    _refuse_other_students(workdirs)
    _teachers(workdirs)


def _read_runs(workdir: epath.Path, start: str) -> dict[tuple[str, int], float]:
    """Returns (arm, seed) → accuracy of the students that a table has."""
    told = Places(workdir).result('arms', f'{start}-*')
    files = sorted(told.parent.glob(told.name))
    runs = [from_text(path.read_text(), path) for path in files]
    return {(run['arm'], run['seed']): run[ENDPOINT] for run in runs}


def _teachers(workdirs: Sequence[epath.PathLike]) -> list[str | None]:
    """Returns the teacher of each table, by the hash of its weights.

    Raises:
        InputError: two tables of one teacher whose circuits are the same.
    """
    teachers, seen = [], {}
    for path in workdirs:
        config = stored_config(epath.Path(path)) or {}
        teacher = config.get('inputs', {}).get('teacher_weights')
        planted = config.get('arms', {}).get('circuits') == PLANTED
        discovery = None if planted else json.dumps(config.get('discovery'), sort_keys=True)
        if (teacher, discovery) in seen:
            raise InputError(
                f'pool={path} has the teacher and the circuits of {seen[teacher, discovery]}: name '
                'tables of other discovery seeds or other teachers, or add seeds to one of the two'
            )
        seen[teacher, discovery] = path
        teachers.append(teacher)
    return teachers


def _refuse_other_students(workdirs: Sequence[epath.PathLike]) -> None:
    """Raises InputError for tables whose students are not distilled alike."""
    first, starts = None, ()
    for path in workdirs:
        config = stored_config(epath.Path(path)) or {}
        arms, inputs = config.get('arms', {}), config.get('inputs', {})
        alike = {
            'distillation': arms.get('distillation'),
            'alignment': arms.get('alignment'),
            'layer_pairs': config.get('layer_pairs'),
            'arm_circuits': arms.get('circuits'),
            'weight_grid': arms.get('weight_grid'),
            **{name: value for name, value in inputs.items() if name not in _OF_ONE_TABLE},
        }
        if arms.get('circuits') != PLANTED:
            search = config.get('discovery', {})
            alike['discovery'] = {name: v for name, v in search.items() if name != 'seed'}
        if first is None:
            first, starts = alike, arms.get('starts', ())
        differing = [name for name in first | alike if alike.get(name) != first.get(name)]
        if differing:
            raise InputError(
                f'pool={path} has other {", ".join(differing)} than {workdirs[0]}: only the '
                'teacher and the seed of its discovery may differ'
            )
        if missing := [one for one in starts if one not in arms.get('starts', ())]:
            raise InputError(
                f'pool={path} holds no students from {", ".join(missing)}, as {workdirs[0]} does: '
                'make them there, or leave them out here with --starts'
            )
