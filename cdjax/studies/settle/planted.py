"""The positive and the negative control: what was planted is found, and nothing elsewhere."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.methods.learned_masks import search_for
from cdjax.evaluation.classes import agreement
from cdjax.evaluation.selectivity import selectivity
from cdjax.inference.predictions import predict
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.recovery import recovery
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.studies.discovery import discover_circuits
from cdjax.studies.inputs import Inputs
from cdjax.studies.run import Run
from cdjax.studies.settle.protocol import PlantedProtocol, protocol_hash
from cdjax.studies.settle.verdicts import SUPPORTED, judge_groups
from cdjax.studies.teacher import TeacherConfig, TeacherStudy


def settle_planted(
    protocol: PlantedProtocol,
    workdir: epath.Path,
    *,
    mesh: Mesh,
    options: RunOptions = RunOptions(),
) -> dict[str, Any]:
    """Runs the gates over teachers and seeds; what is done already is read from disk.

    Args:
        protocol: what is run.
        workdir: a folder of a run, claimed by the caller.
        mesh: the mesh.
        options: what trainings write and check on the way.

    Returns:
        `protocol` (its hash), `verdicts` (see `judge`), `passed`, and by teacher and seed what they
        rest on: `planted[][]` and `null[][]`, see `measure`.
    """
    kinds = {
        'planted': (protocol.teachers, protocol.planted),
        'null': (protocol.nulls, protocol.null),
    }
    found = {
        kind: [
            [
                _measured(protocol, kind, teacher, config(teacher), seed, workdir, mesh, options)
                for seed in protocol.seeds
            ]
            for teacher in teachers
        ]
        for kind, (teachers, config) in kinds.items()
    }
    verdicts = [
        judge_groups(gate, [[run[gate.key] for run in runs] for runs in found['planted']])
        for gate in protocol.gates
    ]
    selective = [[run['selectivity'] for run in runs] for runs in found['null']]
    verdicts.append(judge_groups(protocol.no_classes, selective))
    return {
        'protocol': protocol_hash(protocol),
        'verdicts': verdicts,
        'passed': all(verdict['verdict'] == SUPPORTED for verdict in verdicts),
        **found,
    }


def _measured(protocol, kind, teacher, config, seed, workdir, mesh, options) -> dict[str, Any]:
    name = f'{kind}-{teacher}-{seed}'

    def compute():
        run = _run_of(config, workdir / 'teachers' / f'{kind}-{teacher}', mesh, options)
        discover = functools.partial(_discover, run, protocol, name)
        return measure(run, discover, seed, protocol.problems)

    return stored(workdir / 'results' / f'{name}.json', compute)


def _run_of(config: TeacherConfig, folder: epath.Path, mesh: Mesh, options: RunOptions) -> Run:
    """Returns a run whose teacher is trained, where it is not there yet."""
    teacher = TeacherStudy(config, folder, mesh=mesh, options=options)
    if not (folder / 'model' / 'ground_truth.json').exists():
        teacher.run()
    inputs = Inputs(dataclasses.replace(config.inputs, teacher=str(folder / 'model')))
    return Run(inputs, folder, mesh, options)


def _discover(
    run: Run, protocol: PlantedProtocol, name: str, num_classes: int, seed: int
) -> Circuit:
    search = dataclasses.replace(search_for(num_classes, protocol.discovery), seed=seed)
    of = f'{name}-{num_classes}'
    found = discover_circuits(
        run,
        lambda: {'teacher': run.teacher},
        search,
        {'teacher': run.workdir / 'circuits' / of},
        training=run.workdir / 'stages' / of,
        description=f'discover: {of}',
        options=dataclasses.replace(run.options, check_gradients=False),
    )
    return found['teacher']


def measure(
    run: Run, discover: Callable[[int, int], Circuit], seed: int, most: int
) -> dict[str, Any]:
    """Returns what one search finds of a teacher whose circuits are known.

    Args:
        run: the run; its teacher has a ground truth beside it.
        discover: `(number of classes, seed) -> Circuit`.
        seed: of the search.
        most: problems of unseen forms that are answered, at most.

    Returns:
        Of circuits of the causal size (of their own, where none is planted): `own`, `wrong` and
        `one_mask`, the mean probability of the answer with only the problem's own circuit, with
        that of another class (mean over them), and with one mask for all; `own_minus_one`;
        `selectivity` of the specific parts in probability, see `specific_selectivity`; `size`; and
        where something is planted all of `cdjax.planted.recovery.recovery`, with `auroc` among
        living neurons; else `nmi` with the label that was given for classes.
    """
    truth = GroundTruth.load(run.inputs.teacher_path)
    K = len(truth.specific)
    learned, one = discover(K, seed), discover(1, seed)
    rows = np.sort(np.random.default_rng(0).permutation(run.inputs.split.test)[:most])
    size = truth.causal_size or learned.size
    learned, one = learned.at_size(size), one.at_size(size)
    problems, classes = run.inputs.dataset[rows], learned.assignments[rows]

    def probability(masks: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Returns the probability of each answer with only a mask [K, L, F] left."""
        ablated = predict(
            run.teacher, problems, masks=masks, classes=of, fill=learned.fill, **run.passes
        )
        return ablated.probability

    own = probability(learned.masks, classes)
    others = [probability(learned.masks, (classes + shift) % K) for shift in range(1, K)]
    alone = probability(one.masks, np.zeros_like(classes))
    figures = {
        'size': size,
        'own': float(own.mean()),
        'wrong': float(np.mean(others)),
        'one_mask': float(alone.mean()),
        'own_minus_one': float(own.mean() - alone.mean()),
        'selectivity': specific_selectivity(learned.masks, classes, probability),
    }
    if truth.plan.empty:
        agreed = agreement(learned.assignments[rows], truth.assignments[rows])
        return figures | {'nmi': agreed.nmi, 'ari': agreed.ari}
    found = recovery(truth, learned.scores, learned.assignments, rows)
    return figures | found | {'auroc': found['auroc_living'], 'auroc_all': found['auroc']}


def specific_selectivity(
    masks: np.ndarray, classes: np.ndarray, probability: Callable[..., np.ndarray]
) -> float:
    """Returns how much more a class needs its specific part than others do, in probability.

    The specific part of a circuit is what no other circuit has. Without it, the mean probability
    of the answers of other classes minus that of its own class; the mean over circuits.

    Args:
        masks: bool `[K, L, F]`.
        classes: int `[N]`.
        probability: `(masks, circuit of each problem) -> float [N]`.
    """
    specific = masks & (masks.sum(axis=0) == 1)
    one = np.zeros_like(classes)
    without = np.stack([probability(~part[None], one) for part in specific])
    members = np.eye(len(masks))[classes]
    counts = members.sum(axis=0)
    sums = without @ members
    matrix = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return selectivity(matrix)
