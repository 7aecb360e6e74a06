"""Stage 2: distils one student, by KD alone or with the CKA of circuits.

Reads the circuits that experiments.discover has written, writes checkpoints, metrics.jsonl and
student/ (a Hugging Face folder) into --workdir.
"""

import dataclasses

import numpy as np
from absl import flags

from cdjax.circuits.circuit import Circuit
from cdjax.circuits.pairing import parse_pairs
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.models import save_huggingface
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import open_workdir
from cdjax.studies.arms import ARMS, Pairing, alignment_of
from cdjax.studies.inputs import Inputs
from cdjax.training.distillation import TeacherStore, check_distillation, distill
from experiments import launch
from experiments.flags import (
    BEST,
    define_checkpoint_flags,
    define_distillation_flags,
    define_export_flag,
    define_machine_flags,
    define_run_flags,
    define_task_flags,
    distillation_from_flags,
    exported,
    inputs_from_flags,
    run_options,
    start_machine,
)

FLAGS = flags.FLAGS
define_run_flags('runs/distill')
flags.DEFINE_enum('arm', 'circuits', list(ARMS), 'What is aligned beside the KD.')
flags.DEFINE_string('circuits', None, "The teacher's circuits (.safetensors); not for kd and all.")
flags.DEFINE_string('student_circuits', None, "The student's circuits of the same classes, if any.")
flags.DEFINE_integer('seed', 0, "Seed of a new student's weights and of the batches.")
define_export_flag()
define_checkpoint_flags()
define_task_flags()
define_distillation_flags()
define_machine_flags()


def main() -> None:
    """Distils, exports, and prints the accuracy on unseen forms."""
    options = run_options()
    inputs = Inputs(inputs_from_flags())
    config = dataclasses.replace(distillation_from_flags(), seed=FLAGS.seed)
    config = config.suited_to(pretrained=inputs.has_student)
    pairs = parse_pairs(
        FLAGS.layer_pairs, inputs.student_config.num_layers, inputs.teacher_config.num_layers
    )
    rows = inputs.split.share
    alignment = teacher_circuits = None
    if FLAGS.arm not in ('kd', 'all'):
        teacher_circuits = _load_circuits('circuits', inputs, inputs.teacher_config)
        student_circuits = None
        if FLAGS.student_circuits is not None:
            student_circuits = _load_circuits('student_circuits', inputs, inputs.student_config)
            if not np.array_equal(student_circuits.assignments, teacher_circuits.assignments):
                raise InputError(
                    f'--student_circuits={FLAGS.student_circuits} has other classes than '
                    f'--circuits={FLAGS.circuits}: discover both in one run (experiments.discover '
                    '--student=PATH)'
                )
        pairing = Pairing(pairs, teacher_circuits, student_circuits)
        alignment = alignment_of(FLAGS.arm, pairing, rows, FLAGS.seed)
    elif FLAGS.arm == 'all':
        alignment = alignment_of('all', Pairing(pairs), rows, FLAGS.seed)
    mesh = start_machine()
    check_distillation(
        config,
        vocab_size=inputs.teacher_config.vocab_size,
        mesh=mesh,
        aligned=alignment is not None,
    )
    facts = {
        'inputs': inputs.facts(),
        'distillation': config,
        'arm': FLAGS.arm,
        'circuits': FLAGS.circuits,
        'student_circuits': FLAGS.student_circuits,
        'layer_pairs': FLAGS.layer_pairs,
        'export': FLAGS.export,
    }
    workdir = open_workdir(FLAGS.workdir, facts, name='distill')
    launch.say(f'distillation: {config.optimizer.describe()}')
    unseen = inputs.dataset[inputs.split.test]
    share = inputs.dataset[rows]
    teacher = inputs.load_teacher(mesh)
    if teacher_circuits is not None:
        inputs.check_circuits(teacher_circuits, f'--circuits={FLAGS.circuits}', model=teacher)
    store = TeacherStore.build(
        teacher,
        share,
        mesh=mesh,
        layers={layer for _, layer in pairs} if alignment is not None else (),
        top_k=config.top_k,
        temperature=config.temperature,
    )
    del teacher  # its memory is the student's from here on
    student, _ = distill(
        inputs.load_student(mesh) if inputs.has_student else inputs.student_config,
        store,
        share,
        config,
        mesh=mesh,
        alignment=alignment,
        description=f'distill: {FLAGS.arm}',
        workdir=workdir,
        evaluate=lambda model: {'accuracy': predict(model, unseen, mesh=mesh).accuracy},
        evaluate_every=FLAGS.evaluate_every,
        best=BEST,
        options=options,
    )
    student = exported(student, workdir)
    if not as_process_0_sees((workdir / 'student').exists):
        save_huggingface(
            student,
            workdir / 'student',
            tokenizer_from=inputs.tokenizer_path,
            beside=inputs.training_data('share', from_student=inputs.has_student),
        )
    accuracy = predict(student, unseen, mesh=mesh).accuracy
    launch.say(
        f'{accuracy:.1%} of {len(unseen)} problems of unseen forms; student in {workdir}/student'
    )


def _load_circuits(flag: str, inputs: Inputs, config) -> Circuit:
    path = FLAGS[flag].value
    if path is None:
        raise InputError(f'--arm={FLAGS.arm} needs --{flag}=PATH: run experiments.discover first')
    circuit = Circuit.load(path)
    wanted = (config.num_layers, config.intermediate_size)
    if circuit.masks.shape[1:] != wanted:
        raise InputError(
            f'--{flag}={path} has masks of {circuit.masks.shape[1:]} layers and neurons, and the '
            f'model {wanted}: discover them in this model'
        )
    inputs.check_circuits(circuit, f'--{flag}={path}')
    return circuit


if __name__ == '__main__':
    launch.run(main)
