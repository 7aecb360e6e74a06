"""Studies that settle a question: a frozen protocol, gates that come first, and verdicts."""

import dataclasses
from typing import Any

from etils import epath
from jax.sharding import Mesh

from cdjax.errors import InputError
from cdjax.parallel.mesh import one_device
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import as_json, check_workdir, open_workdir, stored_config
from cdjax.run.options import RunOptions
from cdjax.run.results import from_text, stored
from cdjax.run.workers import check_workers
from cdjax.studies.discovery import check_accuracy
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.methods import check_methods
from cdjax.studies.outlook import Announce, Outlook, no_announcement
from cdjax.studies.run import Run
from cdjax.studies.settle.comparison import compare
from cdjax.studies.settle.planted import measure, search, settle_planted
from cdjax.studies.settle.protocol import (
    NULL,
    TITLES,
    ComparisonProtocol,
    PlantedProtocol,
    protocol_hash,
)
from cdjax.studies.settle.stages import comparison_stages, planted_stages
from cdjax.training.discovery import DiscoveryConfig, check_discovery

__all__ = [
    'PROTOCOLS',
    'TITLES',
    'ComparisonProtocol',
    'PlantedProtocol',
    'measure',
    'protocol',
    'search',
    'settle',
]

# The gates alone; null teachers that need their neurons; the comparison in the embedded teacher,
# and in one that is named.
PROTOCOLS = ('planted', 'null', 'embedded', 'llama')


def protocol(
    name: str,
    inputs: InputsConfig,
    seeds: tuple[int, ...] = (),
    least_accuracy: float = DiscoveryConfig.least_accuracy,
) -> PlantedProtocol | ComparisonProtocol:
    """Returns a protocol by name.

    Args:
        name: one of `PROTOCOLS`.
        inputs: the teacher and the problems; only of `llama` are they free.
        seeds: some of the seeds of a comparison, which makes it a reduced protocol with a hash of
            its own; all if empty.
        least_accuracy: of the teacher on the problems, see `DiscoveryConfig`; as free as they are.

    Raises:
        InputError: an unknown name, inputs that the protocol does not leave free, or seeds that it
            does not have.
    """
    whole = _whole_protocol(name, inputs, least_accuracy)
    if not seeds:
        return whole
    if isinstance(whole, PlantedProtocol):
        raise InputError(
            f'seeds={_listed(seeds)}: only comparisons are reduced, and the gates never are; leave '
            'it out'
        )
    if not set(seeds) < set(whole.seeds) or len(set(seeds)) < len(seeds):
        raise InputError(
            f'seeds={_listed(seeds)}: name some of {_listed(whole.seeds)}, each of them once; all '
            'are taken where none is named'
        )
    return dataclasses.replace(whole, seeds=tuple(seeds))


def _listed(seeds: tuple[int, ...]) -> str:
    return ','.join(map(str, seeds))


def _whole_protocol(
    name: str, inputs: InputsConfig, least_accuracy: float
) -> PlantedProtocol | ComparisonProtocol:
    if name not in PROTOCOLS:
        raise InputError(f'protocol={name}: choose from {", ".join(PROTOCOLS)}')
    if name == 'llama':
        if inputs.teacher is None:
            raise InputError('protocol=llama needs a checkpoint: name it with --teacher')
        if inputs.student is not None:
            raise InputError(f'student={inputs.student}: no protocol has students; leave it out')
        search = dataclasses.replace(ComparisonProtocol.discovery, least_accuracy=least_accuracy)
        return ComparisonProtocol(inputs, discovery=search)
    given = {**vars(inputs), 'least_accuracy': least_accuracy}
    usual = {**vars(InputsConfig()), 'least_accuracy': DiscoveryConfig.least_accuracy}
    for differing in (k for k in given if given[k] != usual[k]):
        raise InputError(
            f'{differing}={given[differing]}: protocol={name} has its teacher and its problems '
            'frozen; leave it out, or take --protocol=llama'
        )
    frozen = {'planted': PlantedProtocol(), 'null': NULL, 'embedded': ComparisonProtocol()}
    return frozen[name]


def settle(
    protocol: PlantedProtocol | ComparisonProtocol,
    workdir: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    gates: epath.PathLike | None = None,
    stop_at_gates: bool = True,
    options: RunOptions = RunOptions(),
    announce: Announce = no_announcement,
) -> dict[str, Any]:
    """Runs a protocol: the gates, and the comparison where they are passed.

    Args:
        protocol: what is run.
        workdir: the folder of the run; `settled.json` is written there.
        mesh: the mesh; one device if None.
        gates: the folder of a run of the gates alone, whose results are taken; if None, gates are
            run in `gates/` of the folder.
        stop_at_gates: whether nothing is compared where a gate is not passed.
        options: what trainings write and check on the way, and how many of them run at once.
        announce: is told what is going to be done, before anything is loaded or claimed.

    Returns:
        `protocol` (its hash), `gates` (see `settle_planted`), and `comparison` (see `compare`),
        None where the gates stopped it or nothing is compared.

    Raises:
        InputError: wrong inputs, a folder that holds another run, or gates of another protocol.
    """
    facts = {'protocol': protocol_hash(protocol), **protocol.facts()}
    mesh = one_device() if mesh is None else mesh
    check_workers(options.workers, mesh)
    compared = isinstance(protocol, ComparisonProtocol)
    if not compared and not (gates is None and stop_at_gates):
        raise InputError(
            'protocols of planted and null teachers are the gates themselves: leave gates and '
            'nostop_at_gates out'
        )
    passed = None if gates is None else _read_gates(gates, protocol.gates)
    if compared:
        facts['stop_at_gates'] = stop_at_gates
        inputs = Inputs(protocol.inputs)
        _check(protocol, inputs, mesh)
        facts['inputs'] = inputs.facts()
    folder = check_workdir(workdir, facts, name='settle')
    gated = protocol.gates if compared else protocol
    at_gates = folder / 'gates' if compared else folder
    stages = [] if passed is not None else [*planted_stages(gated, at_gates)]
    goes_on = lambda: compared and (passed is None or passed['passed'] or not stop_at_gates)
    if goes_on():
        stages += comparison_stages(protocol, inputs, folder)
    announce(Outlook('settle', folder, as_json(facts), tuple(stages), mesh))
    if goes_on() and as_process_0_sees(lambda: stored_config(folder) is None):
        # It does not stay on the devices while teachers of the gates are trained.
        models = {'teacher': inputs.load_teacher(mesh)}
        check_accuracy(inputs, models, protocol.discovery, mesh=mesh, options=options)
        del models
    open_workdir(workdir, facts, name='settle')
    if passed is None:
        passed = settle_planted(gated, at_gates, mesh=mesh, options=options)
    comparison = None
    if goes_on():
        comparison = compare(protocol, Run(inputs, folder, mesh, options))
    results = {'protocol': facts['protocol'], 'gates': passed, 'comparison': comparison}
    # Judged anew each time, for an earlier version may have judged in another way.
    return stored(folder / 'settled.json', lambda: results, holds=lambda found: False)


def _read_gates(folder: epath.PathLike, protocol: PlantedProtocol) -> dict[str, Any]:
    """Returns the gates of another run; raises InputError unless it is one of this protocol."""
    path = epath.Path(folder) / 'settled.json'
    if not path.exists():
        raise InputError(
            f'gates={folder} holds no settled.json: name the folder of a finished run of '
            '--protocol=planted'
        )
    found = from_text(path.read_text(), path).get('gates', {})
    if found.get('protocol') != protocol_hash(protocol):
        raise InputError(
            f'gates={folder} has the gates of protocol {found.get("protocol")} and these are '
            f'{protocol_hash(protocol)}: run --protocol=planted again'
        )
    return found


def _check(protocol: ComparisonProtocol, inputs: Inputs, mesh: Mesh) -> None:
    """Raises InputError for what a stage would say of its input hours later."""
    shapes = {'teacher': inputs.teacher_config}
    check_discovery(shapes, inputs.dataset, protocol.discovery, mesh=mesh)
    check_methods(
        (*protocol.trained, *protocol.attribution),
        inputs.dataset,
        protocol.discovery.num_classes,
        protocol.discovery,
        protocol.seeds[0],
        inputs.teacher_config,
    )
