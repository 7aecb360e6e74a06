"""What a circuit keeps of a model, what is lost without it, and what its classes know."""

from cdjax.evaluation.classes import (
    Agreement,
    agreement,
    answer_information,
    class_table,
    constant_answer_accuracy,
)
from cdjax.evaluation.faithfulness import (
    area_from_one,
    area_under_faithfulness,
    faithfulness,
)
from cdjax.evaluation.selectivity import (
    compare_matrices,
    selectivity,
    selectivity_interval,
    selectivity_matrix,
    specific_parts,
)
from cdjax.evaluation.statistics import (
    bootstrap_interval,
    student_interval,
)

__all__ = [
    'Agreement',
    'agreement',
    'answer_information',
    'area_from_one',
    'area_under_faithfulness',
    'bootstrap_interval',
    'class_table',
    'compare_matrices',
    'constant_answer_accuracy',
    'faithfulness',
    'selectivity',
    'selectivity_interval',
    'selectivity_matrix',
    'specific_parts',
    'student_interval',
]
