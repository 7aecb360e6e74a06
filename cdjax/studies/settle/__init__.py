"""Studies that settle a question: a frozen protocol, gates that come first, and verdicts."""

import dataclasses
from typing import Any

from etils import epath
from jax.sharding import Mesh

from cdjax.errors import InputError
from cdjax.parallel.mesh import one_device
from cdjax.run.folder import open_workdir
from cdjax.run.options import RunOptions
from cdjax.run.results import stored
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.methods import check_methods
from cdjax.studies.run import Run
from cdjax.studies.settle.comparison import compare
from cdjax.studies.settle.planted import settle_planted
from cdjax.studies.settle.protocol import ComparisonProtocol, PlantedProtocol, protocol_hash
from cdjax.training.discovery import check_discovery

__all__ = ['PROTOCOLS', 'ComparisonProtocol', 'PlantedProtocol', 'protocol', 'settle']

# The gates alone; the comparison in the embedded teacher; and in a teacher that is named.
PROTOCOLS = ('planted', 'embedded', 'llama')


def protocol(name: str, inputs: InputsConfig) -> PlantedProtocol | ComparisonProtocol:
    """Returns a protocol by name.

    Args:
        name: one of `PROTOCOLS`.
        inputs: the teacher and the problems; only of `llama` are they free.

    Raises:
        InputError: an unknown name, or inputs that the protocol does not leave free.
    """
    if name not in PROTOCOLS:
        raise InputError(f'protocol={name}: choose from {", ".join(PROTOCOLS)}')
    if name == 'llama':
        if inputs.teacher is None:
            raise InputError('protocol=llama needs a checkpoint: name it with --teacher')
        return ComparisonProtocol(inputs)
    if inputs != InputsConfig():
        differing = next(k for k, v in vars(inputs).items() if v != getattr(InputsConfig(), k))
        raise InputError(
            f'{differing}={getattr(inputs, differing)}: protocol={name} has its teacher and its '
            'problems frozen; leave it out, or take --protocol=llama'
        )
    return PlantedProtocol() if name == 'planted' else ComparisonProtocol()


def settle(
    protocol: PlantedProtocol | ComparisonProtocol,
    workdir: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    options: RunOptions = RunOptions(),
) -> dict[str, Any]:
    """Runs a protocol: the gates, and the comparison where they are passed.

    Args:
        protocol: what is run.
        workdir: the folder of the run; `settled.json` is written there.
        mesh: the mesh; one device if None.
        options: what trainings write and check on the way.

    Returns:
        `protocol` (its hash), `gates` (see `settle_planted`), and `comparison` (see `compare`),
        None where the gates were not passed or nothing is compared.

    Raises:
        InputError: wrong inputs, or a folder that holds another run.
    """
    facts = {'protocol': protocol_hash(protocol), **dataclasses.asdict(protocol)}
    mesh = one_device() if mesh is None else mesh
    compared = isinstance(protocol, ComparisonProtocol)
    if compared:
        inputs = Inputs(protocol.inputs)
        _check(protocol, inputs, mesh)
        facts['inputs'] = inputs.facts()
    folder = open_workdir(workdir, facts, name='settle')
    gates = settle_planted(
        protocol.gates if compared else protocol,
        folder / 'gates' if compared else folder,
        mesh=mesh,
        options=options,
    )
    comparison = None
    if compared and gates['passed']:
        comparison = compare(protocol, Run(inputs, folder, mesh, options))
    results = {'protocol': facts['protocol'], 'gates': gates, 'comparison': comparison}
    return stored(folder / 'settled.json', lambda: results)


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
