"""What a student is compared with: alignments, the layers they pair, and the arms that choose."""

from cdjax.distillation.alignment import Alignment
from cdjax.distillation.arms import ARMS, Arm, Given
from cdjax.distillation.pairings import PAIRINGS, Pairing, pair_layers
from cdjax.distillation.pairs import LayerPairs, Unit
from cdjax.distillation.readings import READINGS, Reading
from cdjax.distillation.similarities import SIMILARITIES, Similarity
from cdjax.distillation.store import OnlineTeacher, TeacherStore

__all__ = [
    'ARMS',
    'PAIRINGS',
    'READINGS',
    'SIMILARITIES',
    'Alignment',
    'Arm',
    'Given',
    'LayerPairs',
    'OnlineTeacher',
    'Pairing',
    'Reading',
    'Similarity',
    'TeacherStore',
    'Unit',
    'pair_layers',
]
