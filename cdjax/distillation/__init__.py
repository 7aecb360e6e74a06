"""What a student is compared with: alignments, the layers they pair, and the arms that choose."""

from cdjax.distillation.alignment import Alignment, LayerPairs
from cdjax.distillation.arms import ARMS, Arm, Given
from cdjax.distillation.pairings import PAIRINGS, Pairing, pair_layers

__all__ = [
    'ARMS',
    'PAIRINGS',
    'Alignment',
    'Arm',
    'Given',
    'LayerPairs',
    'Pairing',
    'pair_layers',
]
