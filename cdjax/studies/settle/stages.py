"""The stages of a protocol in their order, and what of them is done."""

from collections.abc import Iterator

from etils import epath

from cdjax.studies.inputs import Inputs
from cdjax.studies.methods import with_classes
from cdjax.studies.outlook import (
    Stage,
    discovery_bytes,
    passes_stage,
    training_stage,
)
from cdjax.studies.places import Places
from cdjax.studies.settle.protocol import ATTRIBUTION, ComparisonProtocol, PlantedProtocol
from cdjax.studies.teacher import TeacherConfig

# Searches on a planted teacher: for its classes, and for one mask.
_SEARCHES = 2


def planted_stages(protocol: PlantedProtocol, folder: epath.Path) -> Iterator[Stage]:
    """Yields the stages of `settle_planted`.

    Args:
        protocol: what is run.
        folder: of the gates; it need not be there.
    """
    kinds = {
        'planted': (protocol.teachers, protocol.planted),
        'null': (protocol.nulls, protocol.null),
    }
    for kind, (teachers, config) in kinds.items():
        for teacher in teachers:
            yield _teacher(f'{kind}-{teacher}', config(teacher), folder)
            for seed in protocol.seeds:
                name = f'{kind}-{teacher}-{seed}'
                steps = _SEARCHES * protocol.discovery.optimizer.steps
                result = Places(folder).result(name)
                yield passes_stage(f'find circuits: {name}', result, steps=steps)


def comparison_stages(
    protocol: ComparisonProtocol, inputs: Inputs, folder: epath.Path
) -> Iterator[Stage]:
    """Yields the stages of `compare`, which come after those of the gates.

    Args:
        protocol: what is run.
        inputs: the teacher and its problems.
        folder: of the run; it need not be there.
    """
    places, length = Places(folder), inputs.dataset.tokens.shape[1]
    shapes = {'teacher': (inputs.teacher_config, inputs.teacher_dtype)}
    memory = discovery_bytes(shapes, protocol.discovery, length)
    K, optimizer = protocol.discovery.num_classes, protocol.discovery.optimizer
    trained = with_classes(protocol.trained, inputs.dataset, K, protocol.seeds[0])
    steps = (1 + len(trained)) * optimizer.steps
    for ablation, _ in protocol.ablations:
        yield passes_stage(f'attribute: {ablation}', places.result(f'{ablation}-{ATTRIBUTION}'))
        for seed in protocol.seeds:
            name = f'{ablation}-{seed}'
            done = places.result(name).exists()
            yield Stage(f'learn masks: {name}', steps, done=done, memory=memory)


def _teacher(name: str, config: TeacherConfig, folder: epath.Path) -> Stage:
    home = folder / 'teachers' / name
    return training_stage(
        f'train teacher: {name}',
        config.training.optimizer.steps,
        home,
        home / 'model' / 'ground_truth.json',
    )
