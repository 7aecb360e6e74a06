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
from cdjax.evaluation.selectivity import specific_parts
from cdjax.parallel.mesh import one_device
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.recovery import recovery
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.run.workers import work_ahead
from cdjax.studies.circuits import Ablated, CircuitStudyConfig, unseen_rows
from cdjax.studies.circuits.selective import selectivities
from cdjax.studies.discovery import discover_circuits
from cdjax.studies.inputs import Inputs
from cdjax.studies.places import Places
from cdjax.studies.run import Run
from cdjax.studies.settle.protocol import PlantedProtocol, protocol_hash
from cdjax.studies.settle.verdicts import SUPPORTED, judge_groups
from cdjax.studies.teacher import TeacherConfig, TeacherStudy
from cdjax.training.discovery import DiscoveryConfig


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
    _work_ahead(protocol, kinds, workdir, options)
    found = {
        kind: [
            _teacher(protocol, kind, teacher, config(teacher), workdir, options, mesh)
            for teacher in teachers
        ]
        for kind, (teachers, config) in kinds.items()
    }
    verdicts = [
        judge_groups(gate, [[run[gate.key] for run in runs] for runs in found['planted']])
        for gate in protocol.gates
    ]
    nulls = lambda key: [[run[key] for run in runs] for runs in found['null']]
    verdicts.append(judge_groups(protocol.no_classes, nulls('selectivity')))
    if protocol.needed is not None:
        verdicts.append(judge_groups(protocol.needed, nulls(protocol.needed.key)))
    return {
        'protocol': protocol_hash(protocol),
        'verdicts': verdicts,
        'passed': all(verdict['verdict'] == SUPPORTED for verdict in verdicts),
        **found,
    }


def _work_ahead(protocol, kinds, workdir, options) -> None:
    """Asks several workers for all teachers, and what is found in each, that are not there yet."""
    there = lambda name: Places(workdir).result(name).exists()
    jobs = {
        f'{kind}-{teacher}': functools.partial(
            _teacher, protocol, kind, teacher, config(teacher), workdir, options
        )
        for kind, (teachers, config) in kinds.items()
        for teacher in teachers
        if not all(there(f'{kind}-{teacher}-{seed}') for seed in protocol.seeds)
    }
    work_ahead(jobs, options.workers)


def _teacher(protocol, kind, teacher, config, workdir, options, mesh=None) -> list[dict[str, Any]]:
    """Returns what each seed finds in one teacher, on one device if there is no mesh."""
    mesh = one_device() if mesh is None else mesh
    return [
        _measured(protocol, kind, teacher, config, seed, workdir, mesh, options)
        for seed in protocol.seeds
    ]


def _measured(protocol, kind, teacher, config, seed, workdir, mesh, options) -> dict[str, Any]:
    name = f'{kind}-{teacher}-{seed}'

    def compute():
        run = _run_of(config, workdir / 'teachers' / f'{kind}-{teacher}', mesh, options)
        discover = functools.partial(search, run, protocol.discovery, name)
        return measure(run, discover, seed, protocol.problems)

    return stored(Places(workdir).result(name), compute)


def _run_of(config: TeacherConfig, folder: epath.Path, mesh: Mesh, options: RunOptions) -> Run:
    """Returns a run whose teacher is trained, where it is not there yet."""
    teacher = TeacherStudy(config, folder, mesh=mesh, options=options)
    if not (folder / 'model' / 'ground_truth.json').exists():
        teacher.run()
    inputs = Inputs(dataclasses.replace(config.inputs, teacher=str(folder / 'model')))
    return Run(inputs, folder, mesh, options)


def search(run: Run, discovery: DiscoveryConfig, name: str, num_classes: int, seed: int) -> Circuit:
    """Returns circuits of a number of classes, discovered where they are not there yet.

    Args:
        run: the run, which keeps them and their training.
        discovery: the search.
        name: what they are kept under.
        num_classes: K.
        seed: of the search.
    """
    of = f'{name}-{num_classes}'
    at = run.places.search(of)
    found = discover_circuits(
        run,
        lambda: {'teacher': run.teacher},
        dataclasses.replace(search_for(num_classes, discovery), seed=seed),
        at.circuits,
        training=at.training,
        description=f'discover: {of}',
        options=run.options.unchecked,
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
        Of circuits of the causal size (of their own, where none is planted): `own`, `wrong`,
        `one_mask` and `none`, the mean probability of the answer with only the problem's own
        circuit, with that of another class (mean over them), with one mask for all, and without any
        neuron; `own_minus_one`;
        `selectivity` of the specific parts (`cdjax.evaluation.selectivity`) in probability; `size`;
        and where something is planted all of `cdjax.planted.recovery.recovery`, with `auroc` among
        living neurons; else `nmi` with the label that was given for classes.
    """
    truth = GroundTruth.load(run.inputs.teacher_path)
    K = len(truth.specific)
    learned, one = discover(K, seed), discover(1, seed)
    rows = unseen_rows(run.inputs.split, CircuitStudyConfig(max_problems=most))
    size = truth.causal_size or learned.size
    learned, one = learned.at_size(size), one.at_size(size)
    problems, classes = run.inputs.dataset[rows], learned.assignments[rows]
    ablated = Ablated(run.teacher, problems, learned.fill, 'mean', run.passes)
    only = lambda masks, of: ablated.only([masks], of)[0].mean_probability
    own, alone = only(learned.masks, classes), only(one.masks, np.zeros_like(classes))
    others = [only(learned.masks, (classes + shift) % K) for shift in range(1, K)]
    without = ablated.without_each(specific_parts(learned.masks))
    figures = {
        'size': size,
        'own': own,
        'wrong': float(np.mean(others)),
        'one_mask': alone,
        'none': ablated.none.mean_probability,
        'own_minus_one': own - alone,
        'selectivity': selectivities(without, classes)['probability'],
    }
    if truth.plan.empty:
        agreed = agreement(learned.assignments[rows], truth.assignments[rows])
        return figures | {'nmi': agreed.nmi, 'ari': agreed.ari}
    found = recovery(truth, learned.scores, learned.assignments, rows)
    return figures | found | {'auroc': found['auroc_living'], 'auroc_all': found['auroc']}
