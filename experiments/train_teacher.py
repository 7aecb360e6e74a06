"""Trains a small Llama on arithmetic from nothing and saves it as a Hugging Face folder.

The teacher that ships with the package was made by
`python -m experiments.train_teacher --flagfile=experiments/recipes/teacher.flags`.
"""

import jax
from absl import flags
from etils import epath

from cdjax.data import build_arithmetic_tokenizer, read_task_file, save_tokenizer, split
from cdjax.data.training_data import TrainingData, training_data_file
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.models import LlamaConfig, save_huggingface
from cdjax.models.target_folder import require_writable
from cdjax.parallel.mesh import check_batch
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.run.folder import open_workdir
from cdjax.training.language_model import (
    FROM_NOTHING,
    LanguageModelConfig,
    train_language_model,
)
from experiments import launch
from experiments.flags import (
    BEST,
    define_export_flag,
    define_machine_flags,
    define_run_flags,
    define_task_flags,
    define_training_flags,
    exported,
    run_options,
    start_machine,
    task_from_flags,
    training_from_flags,
)

FLAGS = flags.FLAGS
define_run_flags('runs/teacher')
flags.DEFINE_string('output', None, 'Hugging Face folder to write; WORKDIR/model if not given.')
flags.DEFINE_integer('hidden_size', 128, 'Width of the residual stream.')
flags.DEFINE_integer('intermediate_size', 512, 'FFN neurons a layer.')
flags.DEFINE_integer('layers', 2, 'Blocks.')
flags.DEFINE_integer('heads', 4, 'Attention heads.')
flags.DEFINE_integer('kv_heads', 4, 'Key and value heads.')
flags.DEFINE_integer('max_number', 99, 'Largest number that is one token.')
flags.DEFINE_integer('seed', LanguageModelConfig().seed, 'Seed of weights and batches.')
flags.DEFINE_integer('evaluate_every', 500, 'Steps between evaluations on unseen forms.')
define_export_flag()
define_training_flags(LanguageModelConfig(), FROM_NOTHING)
define_task_flags()
define_machine_flags()


def main() -> None:
    """Trains, evaluates on unseen canonical forms and saves."""
    task = task_from_flags()
    tokenizer = build_arithmetic_tokenizer(FLAGS.max_number)
    if task is not None:
        dataset = task.encode(tokenizer)
    else:
        dataset = read_task_file(FLAGS.task_file, tokenizer, prompt_prefix=FLAGS.prompt_prefix)
    rows = split(dataset, share=FLAGS.share, test=FLAGS.test, seed=FLAGS.split_seed)
    if FLAGS.heads < 1 or FLAGS.hidden_size % FLAGS.heads:
        raise InputError(
            f'heads={FLAGS.heads} does not divide hidden_size={FLAGS.hidden_size}: choose heads '
            'that do'
        )
    model_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=FLAGS.hidden_size,
        intermediate_size=FLAGS.intermediate_size,
        num_layers=FLAGS.layers,
        num_heads=FLAGS.heads,
        num_kv_heads=FLAGS.kv_heads,
        head_dim=FLAGS.hidden_size // FLAGS.heads,
        rope_theta=1e4,
        max_length=64,
    )
    config = LanguageModelConfig(seed=FLAGS.seed, **training_from_flags())
    config = config.suited_to(pretrained=False)
    options = run_options()
    output = epath.Path(FLAGS.output or epath.Path(FLAGS.workdir) / 'model')
    if output.exists() and not (epath.Path(FLAGS.workdir) / 'config.json').exists():
        raise InputError(
            f'--output={output} exists, and this is not the run that made it: name another folder'
        )
    require_writable(output)
    mesh = start_machine()
    check_batch(config.batch_size, mesh, microbatches=config.microbatches)
    workdir = open_workdir(
        FLAGS.workdir,
        {
            'model': model_config,
            'training': config,
            'data': dataset.hash,
            'split': [FLAGS.share, FLAGS.test, FLAGS.split_seed],
            'export': FLAGS.export,
        },
        name='train_teacher',
    )
    unseen = dataset[rows.test]
    model, _ = train_language_model(
        model_config,
        dataset[rows.train],
        config,
        mesh=mesh,
        description='train teacher',
        workdir=workdir,
        evaluate=lambda model: {'accuracy': predict(model, unseen, mesh=mesh).accuracy},
        evaluate_every=FLAGS.evaluate_every,
        best=BEST,
        options=options,
    )
    model = exported(model, workdir)
    if jax.process_index() == 0:
        save_tokenizer(tokenizer, workdir / 'tokenizer')
    if not as_process_0_sees(output.exists):
        trained = TrainingData(dataset.hash, FLAGS.split_seed, FLAGS.share, FLAGS.test, 'train')
        save_huggingface(
            model,
            output,
            tokenizer_from=workdir / 'tokenizer',
            beside=training_data_file([trained]),
        )
    accuracy = predict(model, unseen, mesh=mesh).accuracy
    launch.say(
        f'{accuracy:.2%} of {len(unseen)} problems of unseen canonical forms; saved to {output}'
    )


if __name__ == '__main__':
    launch.run(main)
