"""Settles a question by a frozen protocol: the gates first, then the study, then the verdicts.

--protocol=planted asks of the search for circuits what it finds where circuits were planted, and
where nothing was. A killed run, started again with the same command, continues.
"""

from absl import flags

from cdjax.report.verdicts import verdict_table
from cdjax.studies.settle import PROTOCOLS, settle
from experiments import launch
from experiments.flags import define_machine_flags, define_run_flags, run_options, start_machine

FLAGS = flags.FLAGS
define_run_flags('runs/settle')
flags.DEFINE_enum('protocol', 'planted', list(PROTOCOLS), 'What is settled.')
define_machine_flags()
