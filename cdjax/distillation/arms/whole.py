"""Arms that know nothing of circuits: the answers alone, and all neurons beside them."""

from cdjax.distillation.arms.arm import Arm

KD = Arm('kd', 'KD', 'KD alone', 'ink')
ALL = Arm(
    'all', 'KD + CKA of all neurons', 'all neurons', 'orange', align=lambda given: given.alignment
)
