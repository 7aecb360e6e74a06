"""The study of a model's circuits, beside those of every other method at equal size.

One file for each question: what circuits keep and what is lost without them (curves), whether they
matter to their own class (selective), whether all of their neurons are needed (minimal), what of
them is alive and how they rank neurons (living), and what their classes know (structure).
"""

from cdjax.studies.circuits.ablated import Ablated
from cdjax.studies.circuits.config import CircuitStudyConfig, learned_rows, unseen_rows
from cdjax.studies.circuits.curves import smallest_faithful_share
from cdjax.studies.circuits.study import facts_of, study_circuits

__all__ = [
    'Ablated',
    'CircuitStudyConfig',
    'facts_of',
    'learned_rows',
    'smallest_faithful_share',
    'study_circuits',
    'unseen_rows',
]
