"""Arms that know nothing of circuits: the answers alone, and all neurons beside them."""

from cdjax.distillation.arms.arm import Arm

KD = Arm('kd', 'KD', 'KD alone', 'ink')
ALL = Arm(
    'all', 'KD + CKA of all neurons', 'all neurons', 'orange', align=lambda given: given.alignment
)
CROSS_ENTROPY = Arm(
    'cross_entropy',
    'the right answers alone',
    'the right answers alone',
    'green',
    task='cross_entropy',
    by_default=False,
)
REVERSE_KD = Arm(
    'reverse_kd', 'reverse KD', 'reverse KD alone', 'sky', task='reverse_kd', by_default=False
)
