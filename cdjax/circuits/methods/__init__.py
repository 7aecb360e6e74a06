"""Ways to choose the neurons of a circuit, one file each: what circuits are held against.

A method of a user's own is added to `METHODS` before a study runs; it is in the study's table and
in the report then.
"""

from cdjax.circuits.methods import deviation, grad_drop, integrated, learned_masks, patching
from cdjax.circuits.methods.exact_ablation import EXACT_ABLATION
from cdjax.circuits.methods.mean_activation import MEAN_ACTIVATION
from cdjax.circuits.methods.method import Context, Method, Request
from cdjax.circuits.methods.random_living_masks import RANDOM_LIVING_MASKS
from cdjax.circuits.methods.random_masks import RANDOM_MASKS
from cdjax.circuits.methods.registry import METHODS

# In the order of tables.
LEARNED = METHODS.add(learned_masks.LEARNED)
ONE_MASK = METHODS.add(learned_masks.ONE_MASK)
METHODS.add(learned_masks.OPERATORS)
RANDOM_CLASSES = METHODS.add(learned_masks.RANDOM_CLASSES)
METHODS.add(learned_masks.ANSWER_CUT)
METHODS.add(learned_masks.ANSWER_MATCHED)
METHODS.add(learned_masks.ATTRIBUTION)
EM = METHODS.add(learned_masks.EM)
for _method in (
    *patching.ATP,
    *grad_drop.GRAD_DROP,
    *integrated.INTEGRATED_GRADIENTS,
    *integrated.INTEGRATED_GATES,
    *integrated.INTEGRATED_INPUTS,
    *patching.RELP,
):
    METHODS.add(_method)
ATP = METHODS['atp']
METHODS.add(EXACT_ABLATION)
METHODS.add(deviation.DEVIATION)
METHODS.add(deviation.ANSWER_DEVIATION)
METHODS.add(MEAN_ACTIVATION)
METHODS.add(RANDOM_MASKS)
METHODS.add(RANDOM_LIVING_MASKS)

__all__ = [
    'ATP',
    'EM',
    'LEARNED',
    'METHODS',
    'ONE_MASK',
    'RANDOM_CLASSES',
    'RANDOM_LIVING_MASKS',
    'RANDOM_MASKS',
    'Context',
    'Method',
    'Request',
]
