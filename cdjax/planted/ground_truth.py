"""The artefact beside a planted teacher: which neurons carry what, and what proves it."""

import dataclasses
import hashlib
import json
import warnings
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from cdjax.errors import InputError
from cdjax.planted.plan import Plan
from cdjax.run.folder import write_atomically
from cdjax.run.json_file import read_json

NAME = 'ground_truth'
FORMAT = 1
# What a ground truth belongs to, by key of `info`, and what to do where it does not.
_ORIGINS = {
    'data': 'other problems than those of these flags: give the task that it was planted in',
    'model': 'another model: name the checkpoint that it lies beside',
}
# The least share of the answer's probability that planted circuits keep, in every class, if what
# they are is to stand for all that a teacher does.
SUFFICIENT = 0.8
_TENSORS = ('shared', 'specific', 'necessary', 'living', 'assignments')


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """What is known of a teacher.

    Attributes:
        shared: bool `[L, F]`, S, planted for all classes.
        specific: bool `[K, L, F]`, C_k, planted for one class.
        necessary: bool `[K, L, F]`, the planted neurons that class k needs: what is to be found.
        living: bool `[L, F]`, the neurons that vary, see `cdjax.evaluation.living`.
        assignments: int32 `[N]`, the class of each problem of the data set.
        info: `model` and `data`, hashes of what it belongs to; `plant`, the key and the settings
            that it was planted with; `verification`, see `cdjax.planted.verify.Verification`.
    """

    shared: np.ndarray
    specific: np.ndarray
    necessary: np.ndarray
    living: np.ndarray
    assignments: np.ndarray
    info: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The neurons that were chosen."""
        return Plan(self.shared, self.specific)

    @property
    def decoys(self) -> np.ndarray:
        """What was planted for no class, bool `[L, F]`."""
        return self.plan.decoys

    @property
    def num_classes(self) -> int:
        """K of the plan, 1 where no class has neurons of its own: there are no classes then."""
        return len(self.specific) if self.specific.any() else 1

    @property
    def causal_size(self) -> int:
        """Neurons that a class needs, mean over the classes; 0 where nothing is planted."""
        return round(float(self.necessary.sum(axis=(1, 2)).mean()))

    def check_belongs(self, name: str, **wanted: str) -> None:
        """Raises InputError unless this is the ground truth of a model, or of these problems.

        Args:
            name: what the user calls it, `ground_truth=PATH`.
            **wanted: hashes by their key: `data`, `model`.
        """
        for key, value in wanted.items():
            if self.info.get(key) != value:
                raise InputError(f'{name} belongs to {_ORIGINS[key]}')

    def warn_unless_sufficient(self) -> None:
        """Warns where planted circuits alone answer much less than the teacher: others help."""
        figures = self.info.get('verification')
        if self.plan.empty or not figures:
            return
        only, whole = (np.asarray(figures[name], float) for name in ('only', 'whole'))
        if np.nanmin(only / whole) < SUFFICIENT:
            told = lambda values: ' '.join(f'{value:.2f}' for value in values)
            warnings.warn(
                f'with only its planted circuit a class answers with {told(only)}, in the whole '
                f'teacher with {told(whole)}: other neurons carry what is missing, so that this '
                'ground truth is a part of what there is to be found; plant for more steps, or '
                'more neurons',
                stacklevel=2,
            )

    def save(self, folder: epath.PathLike) -> None:
        """Writes `ground_truth.safetensors` and `ground_truth.json` into a folder, on process 0."""
        if jax.process_index() == 0:
            tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
            content = write_tensors(tensors, {'format': 'cdjax.ground_truth'})
            facts = {
                'format': FORMAT,
                'tensors': hashlib.sha256(content).hexdigest(),
                'classes': self.num_classes,
                'causal_size': self.causal_size,
                'info': self.info,
            }
            folder = epath.Path(folder)
            write_atomically(folder / f'{NAME}.safetensors', content)
            write_atomically(folder / f'{NAME}.json', json.dumps(facts, indent=2) + '\n')
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f'saved {folder}/{NAME}')

    @classmethod
    def load(cls, path: epath.PathLike) -> 'GroundTruth':
        """Reads what `save` has written.

        Args:
            path: the folder, or one of the two files.

        Raises:
            InputError: a missing or damaged file, or one of another kind.
        """
        path = epath.Path(path)
        folder = path.parent if path.suffix else path
        json_path, tensors_path = (folder / f'{NAME}{end}' for end in ('.json', '.safetensors'))
        for part in (json_path, tensors_path):
            if not part.exists():
                raise InputError(
                    f'{part} does not exist: a ground truth lies beside a planted teacher, see '
                    'experiments.train_teacher --plant'
                )
        try:
            facts, content = read_json(json_path), tensors_path.read_bytes()
            if facts['format'] != FORMAT:
                raise ValueError(f'format {facts["format"]}, and this version reads {FORMAT}')
            if facts['tensors'] != hashlib.sha256(content).hexdigest():
                raise ValueError(f'{json_path.name} was written beside another one')
            tensors = read_tensors(content)
            return cls(**{name: tensors[name] for name in _TENSORS}, info=dict(facts['info']))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f'{tensors_path} is no ground truth, or is damaged: {error}'
            ) from error
