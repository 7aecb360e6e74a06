"""Whole experiments: what is trained, against what it is held, and what is written down."""

from cdjax.studies.arms import ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig, study_circuits, unseen_rows
from cdjax.studies.extra import STUDIES
from cdjax.studies.inputs import EMBEDDED_TEACHER, Inputs, InputsConfig
from cdjax.studies.pipeline import Pipeline, PipelineConfig
from cdjax.studies.run import Run
from cdjax.studies.study import Drawing, Section, Study, Table

__all__ = [
    'EMBEDDED_TEACHER',
    'STUDIES',
    'ArmsConfig',
    'CircuitStudyConfig',
    'Drawing',
    'Inputs',
    'InputsConfig',
    'Pipeline',
    'PipelineConfig',
    'Run',
    'Section',
    'Study',
    'Table',
    'study_circuits',
    'unseen_rows',
]
