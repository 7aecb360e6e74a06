"""Compares two saved circuits of one model: overlap of neurons, and agreement of classes.

Example, seconds on one CPU core; the circuits of two searches with different --discovery_seed:
    python -m experiments.compare runs/a/circuits/teacher runs/b/circuits/teacher
"""

from cdjax.circuits.circuit import Circuit
from cdjax.errors import InputError
from cdjax.evaluation.classes import agreement
from cdjax.wording import count
from experiments import launch
from experiments.announce import announce_measuring
from experiments.flags import define_dry_run_flag

define_dry_run_flag('which circuits would be compared')


def main(*paths: str) -> None:
    """Prints the overlap matrix beside chance, and the agreement of the classes."""
    if len(paths) != 2:
        raise InputError(
            f'compare takes two files of circuits, and here are {len(paths)}: '
            'python -m experiments.compare FIRST SECOND'
        )
    first, second = map(Circuit.load, paths)
    if first.masks.shape[1:] != second.masks.shape[1:]:
        raise InputError(
            f'{paths[0]} has masks of {first.masks.shape[1:]} layers and neurons, {paths[1]} of '
            f'{second.masks.shape[1:]}: neurons can be compared within one model only'
        )
    announce_measuring(
        f'compare: {paths[0]} ({_told(first)}) beside {paths[1]} ({_told(second)})',
        {'first': paths[0], 'second': paths[1]},
        time='seconds',
    )
    differing = first.differences(
        **{key: second.info.get(key) for key in ('model', 'data', 'rows')}
    )
    p, q = first.share, second.share
    if 'model' in differing:
        print(
            'models: two of one shape with different weights; neurons are compared by their place '
            'alone, which means something only if one model came from the other'
        )
    print('intersection over union, a row for each class of the first:')
    for row in first.overlap(second):
        print('  ' + ' '.join(f'{value:.2f}' for value in row))
    print(f'random circuits of these sizes: {p * q / (p + q - p * q):.2f}')
    if 'data' in differing:
        print('classes: not compared, for the circuits sort different problems')
        return
    measured = agreement(first.assignments, second.assignments)
    print(
        f'classes: NMI {measured.nmi:.3f} (chance at most {measured.chance_nmi:.3f} in 95 %), '
        f'ARI {measured.ari:.3f}'
    )
    if 'rows' in differing:
        print('splits: the two were learned from different rows of these problems')


def _told(circuit: Circuit) -> str:
    """Returns how many circuits there are, and how large."""
    return f'{count(circuit.num_classes, "circuit")} of {count(circuit.size, "neuron")}'


if __name__ == '__main__':
    launch.run(main, words=2)
