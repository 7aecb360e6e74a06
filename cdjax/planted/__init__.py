"""Teachers whose circuits are known, because they were trained into them."""

from pathlib import Path

import cdjax
from cdjax.planted.ground_truth import GroundTruth
from cdjax.planted.plan import PlanConfig
from cdjax.planted.recovery import recovery

__all__ = ['PLANTED_TEACHERS', 'GroundTruth', 'PlanConfig', 'recovery']

# Those that ship with the package, each a checkpoint with its ground truth.
PLANTED_TEACHERS = Path(cdjax.__file__).parent / 'assets' / 'planted'
