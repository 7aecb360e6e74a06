"""Stage 2 alone: one student, from circuits that were discovered before."""

import dataclasses

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.pairing import parse_pairs
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.models import LlamaConfig
from cdjax.run.folder import check_workdir, open_workdir
from cdjax.run.options import RunOptions
from cdjax.studies.arms import ARMS, EVALUATE_EVERY, LAYER_PAIRS, Pairing, alignment_of
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.run import Run
from cdjax.studies.trained import BEST, Trained, check_evaluations, exported
from cdjax.training.distillation import (
    DistillationConfig,
    TeacherStore,
    check_distillation,
    distill,
)
from cdjax.training.memory import check_memory, least_training_bytes

# Arms that align no circuits.
WITHOUT_CIRCUITS = ('kd', 'all')


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """Everything that decides one student.

    Attributes:
        inputs: checkpoints, problems and their split.
        distillation: the distillation; what its optimizer leaves open suits the student.
        arm: a key of `ARMS`.
        circuits: the teacher's circuits (.safetensors); for 'kd' and 'all' there is no need.
        student_circuits: the student's circuits of the same classes, if any.
        layer_pairs: what is aligned, see `cdjax.circuits.pairing.parse_pairs`.
        evaluate_every: steps between evaluations on unseen forms.
        export: 'last' or 'best' step, by accuracy on the very problems that are evaluated.
    """

    inputs: InputsConfig = InputsConfig()
    distillation: DistillationConfig = DistillationConfig()
    arm: str = 'circuits'
    circuits: str | None = None
    student_circuits: str | None = None
    layer_pairs: str = LAYER_PAIRS
    evaluate_every: int = EVALUATE_EVERY
    export: str = 'last'

    def __post_init__(self):
        suited = self.distillation.suited_to(pretrained=self.inputs.has_student)
        object.__setattr__(self, 'distillation', suited)
        if self.arm not in ARMS:
            raise InputError(f'arm={self.arm}: choose from {", ".join(ARMS)}')
        if self.aligns_circuits and self.circuits is None:
            raise InputError(
                f'--arm={self.arm} needs --circuits=PATH: run experiments.discover first'
            )
        if self.student_circuits is not None and not self.inputs.has_student:
            raise InputError(
                f'--student_circuits={self.student_circuits} are not those of a student from '
                'nothing: name with --student the checkpoint that they were discovered in'
            )
        check_evaluations(self.evaluate_every, self.export)

    @property
    def aligns_circuits(self) -> bool:
        """Whether circuits are needed."""
        return self.arm not in WITHOUT_CIRCUITS


class StudentStudy:
    """The distillation of one student, checked and claimed.

    Everything that can be wrong with the input is found here, before the folder is claimed; the
    teacher is loaded first where its circuits have to be compared with it.

    Args:
        config: what is run.
        workdir: the folder of the run.
        mesh: the mesh.
        options: what the training writes and checks on the way.

    Raises:
        InputError: wrong inputs (see `Inputs`), circuits of another model, other problems or other
            classes, settings that cannot work, or a folder that holds another run.
    """

    def __init__(
        self,
        config: StudentConfig,
        workdir: epath.PathLike,
        *,
        mesh: Mesh,
        options: RunOptions = RunOptions(),
    ):
        inputs = Inputs(config.inputs)
        self._pairing = Pairing(
            parse_pairs(
                config.layer_pairs,
                inputs.student_config.num_layers,
                inputs.teacher_config.num_layers,
            ),
            *(_load_circuits(config, inputs) if config.aligns_circuits else ()),
        )
        seed, rows = config.distillation.seed, inputs.split.share
        self._alignment = alignment_of(config.arm, self._pairing, rows, seed)
        check_distillation(
            config.distillation,
            vocab_size=inputs.teacher_config.vocab_size,
            mesh=mesh,
            aligned=self._alignment is not None,
        )
        check_student_memory(config.distillation, inputs, mesh)
        facts = {**dataclasses.asdict(config), 'inputs': inputs.facts()}
        for name, circuit in (
            ('circuits', self._pairing.teacher),
            ('student_circuits', self._pairing.student),
        ):  # what lies under a path may be another the next time
            facts[name] = None if circuit is None else [facts[name], circuit.hash]
        check_workdir(workdir, facts, name='distill')
        if self._pairing.student is not None:
            name = f'--student_circuits={config.student_circuits}'
            inputs.check_circuits(self._pairing.student, name, model=inputs.load_student(mesh))
        self._teacher = inputs.load_teacher(mesh)
        if self._pairing.teacher is not None:
            name = f'--circuits={config.circuits}'
            inputs.check_circuits(self._pairing.teacher, name, model=self._teacher)
        claimed = open_workdir(workdir, facts, name='distill')
        self.config, self._run = config, Run(inputs, claimed, mesh, options)

    def run(self) -> Trained:
        """Distils what has not been distilled yet, exports the student and measures it."""
        config, run, inputs = self.config, self._run, self._run.inputs
        share, unseen = inputs.dataset[inputs.split.share], inputs.dataset[inputs.split.test]
        accuracy = lambda model: predict(model, unseen, **run.passes).accuracy
        aligned = {layer for _, layer in self._pairing.pairs} if self._alignment else ()
        store = TeacherStore.build(
            self._teacher,
            share,
            layers=aligned,
            top_k=config.distillation.top_k,
            temperature=config.distillation.temperature,
            **run.passes,
        )
        del self._teacher  # its memory is the student's from here on
        model, _ = distill(
            inputs.load_student(run.mesh) if inputs.has_student else inputs.student_config,
            store,
            share,
            config.distillation,
            mesh=run.mesh,
            alignment=self._alignment,
            description=f'distill: {config.arm}',
            workdir=run.workdir,
            evaluate=lambda model: {'accuracy': accuracy(model)},
            evaluate_every=config.evaluate_every,
            best=BEST,
            options=run.options,
        )
        model = exported(model, run.workdir, config.export)
        folder = run.workdir / 'student'
        run.save_student(model, folder, 'share', from_checkpoint=inputs.has_student)
        return Trained(model, folder, accuracy(model), len(unseen))


def check_student_memory(config: DistillationConfig, inputs: Inputs, mesh: Mesh) -> None:
    """Raises InputError for a batch that cannot fit, see `cdjax.training.memory`."""
    needed = least_training_bytes(
        inputs.student_config,
        config.batch_size // config.microbatches,
        inputs.dataset.tokens.shape[1],
        remat=config.remat,
        dtype=config.compute_dtype,
    )
    check_memory(needed, mesh, batch_size=config.batch_size)


def _load_circuits(config: StudentConfig, inputs: Inputs) -> tuple[Circuit, Circuit | None]:
    teacher = _load('circuits', config.circuits, inputs, inputs.teacher_config)
    if config.student_circuits is None:
        return teacher, None
    path = config.student_circuits
    student = _load('student_circuits', path, inputs, inputs.student_config)
    if not np.array_equal(student.assignments, teacher.assignments):
        raise InputError(
            f'--student_circuits={path} has other classes than --circuits={config.circuits}: '
            'discover both in one run (experiments.discover --student=PATH)'
        )
    return teacher, student


def _load(name: str, path: str, inputs: Inputs, shape: LlamaConfig) -> Circuit:
    circuit = Circuit.load(path)
    wanted = (shape.num_layers, shape.intermediate_size)
    if circuit.masks.shape[1:] != wanted:
        raise InputError(
            f'--{name}={path} has masks of {circuit.masks.shape[1:]} layers and neurons, and the '
            f'model {wanted}: discover them in this model'
        )
    inputs.check_circuits(circuit, f'--{name}={path}')
    return circuit
