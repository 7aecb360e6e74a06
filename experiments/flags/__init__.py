"""Groups of flags that several launchers share, and what they turn into.

A flag that stands for a field of a configuration has the default of that field.
"""

from experiments.flags.discovery import (
    define_discovery_flags,
    define_least_accuracy_flag,
    discovery_from_flags,
    least_accuracy_from_flags,
)
from experiments.flags.distillation import (
    alignment_from_flags,
    arms_from_flags,
    define_arms_flags,
    define_distillation_flags,
    define_pairs_flag,
    define_training_flags,
    distillation_from_flags,
    training_from_flags,
)
from experiments.flags.inputs import (
    define_checkpoint_flags,
    define_reach_flags,
    define_task_flags,
    inputs_from_flags,
    problems_from_flags,
    reaching,
)
from experiments.flags.machine import define_machine_flags, define_mesh_flags, start_machine
from experiments.flags.optional_path import define_optional_path
from experiments.flags.plant import define_plant_flags, plant_from_flags
from experiments.flags.run import (
    define_dry_run_flag,
    define_export_flag,
    define_pass_flag,
    define_run_flags,
    define_workers_flag,
    run_options,
)
from experiments.flags.study import define_study_flags, study_from_flags

__all__ = [
    'alignment_from_flags',
    'arms_from_flags',
    'define_arms_flags',
    'define_checkpoint_flags',
    'define_discovery_flags',
    'define_distillation_flags',
    'define_dry_run_flag',
    'define_export_flag',
    'define_least_accuracy_flag',
    'define_machine_flags',
    'define_mesh_flags',
    'define_optional_path',
    'define_pairs_flag',
    'define_pass_flag',
    'define_plant_flags',
    'define_reach_flags',
    'define_run_flags',
    'define_study_flags',
    'define_task_flags',
    'define_training_flags',
    'define_workers_flag',
    'discovery_from_flags',
    'distillation_from_flags',
    'inputs_from_flags',
    'least_accuracy_from_flags',
    'plant_from_flags',
    'problems_from_flags',
    'reaching',
    'run_options',
    'start_machine',
    'study_from_flags',
    'training_from_flags',
]
