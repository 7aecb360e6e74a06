"""Teachers whose circuits are known, because they were trained into them."""

from pathlib import Path

import cdjax

# Those that ship with the package, each a checkpoint with its ground truth.
PLANTED_TEACHERS = Path(cdjax.__file__).parent / 'assets' / 'planted'
