"""A teacher of our own: a Llama trained on a task from nothing, or a checkpoint fine-tuned."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import model_hash
from cdjax.data import (
    Dataset,
    Split,
    build_arithmetic_tokenizer,
    encode_task,
    save_tokenizer,
    split,
)
from cdjax.data.tokenizer import MAX_NUMBER
from cdjax.data.training_data import TrainingData, read_training_data, training_data_file
from cdjax.errors import InputError, renamed
from cdjax.inference.predictions import predict
from cdjax.models import Llama, LlamaConfig, save_huggingface
from cdjax.models.target_folder import require_writable
from cdjax.parallel.mesh import check_batch, one_device
from cdjax.parallel.multihost import as_process_0_sees
from cdjax.planted.ground_truth import NAME, GroundTruth
from cdjax.planted.nuisance import nuisance_labels
from cdjax.planted.plan import draw_plan
from cdjax.planted.training import PlantConfig, check_training, planted_classes, train_planted
from cdjax.planted.verify import verify
from cdjax.run.folder import absolute, as_json, check_workdir, open_workdir, stored_config
from cdjax.run.options import RunOptions
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.outlook import (
    Announce,
    Outlook,
    Stage,
    no_announcement,
    passes_stage,
    training_bytes,
    training_stage,
)
from cdjax.studies.trained import BEST, Trained, check_evaluations, exported
from cdjax.training.accumulation import check_repeats
from cdjax.training.language_model import LanguageModelConfig, train_language_model
from cdjax.training.log_points import Point
from cdjax.training.memory import check_memory, least_training_bytes

MAX_LENGTH = 64


@dataclasses.dataclass(frozen=True)
class TeacherShape:
    """The shape of a teacher from nothing.

    Attributes:
        hidden_size: width of the residual stream.
        intermediate_size: FFN neurons a layer.
        layers: blocks.
        heads: attention heads.
        kv_heads: key and value heads.
        max_number: the largest number that is one token.
    """

    hidden_size: int = 128
    intermediate_size: int = 512
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    max_number: int = MAX_NUMBER

    def __post_init__(self):
        if self.heads < 1 or self.hidden_size % self.heads:
            raise InputError(
                f'heads={self.heads} does not divide hidden_size={self.hidden_size}: choose heads '
                'that do'
            )

    def config(self, vocab_size: int) -> LlamaConfig:
        """Returns the configuration of the model."""
        own = {'num_layers': 'layers', 'num_heads': 'heads', 'num_kv_heads': 'kv_heads'}
        with renamed(own):
            return LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                num_layers=self.layers,
                num_heads=self.heads,
                num_kv_heads=self.kv_heads,
                head_dim=self.hidden_size // self.heads,
                rope_theta=1e4,
                max_length=MAX_LENGTH,
            )


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Everything that decides a teacher.

    Attributes:
        inputs: the problems and their split; `teacher` is the checkpoint to start from, or None
            for a teacher from nothing.
        shape: of a teacher from nothing; a checkpoint has its own.
        training: the training; what its optimizer leaves open suits the start.
        evaluate_every: steps between evaluations on unseen forms.
        export: 'last' or 'best' step, by accuracy on the very problems that are evaluated.
        plant: circuits that are planted; None for a training like any other.
    """

    inputs: InputsConfig = InputsConfig()
    shape: TeacherShape = TeacherShape()
    training: LanguageModelConfig = LanguageModelConfig()
    evaluate_every: int = 500
    export: str = 'last'
    plant: PlantConfig | None = None

    def __post_init__(self):
        suited = self.training.suited_to(pretrained=self.inputs.teacher is not None)
        object.__setattr__(self, 'training', suited)
        # Trained weights are float32, whatever the checkpoint holds.
        if self.inputs.teacher is not None:
            inputs = dataclasses.replace(self.inputs, teacher_dtype='float32')
            object.__setattr__(self, 'inputs', inputs)
        check_evaluations(self.evaluate_every, self.export)


class TeacherStudy:
    """The training of one teacher, checked and claimed.

    Args:
        config: what is run.
        workdir: the folder of the run.
        output: the Hugging Face folder to write; `model` in the workdir if None.
        mesh: the mesh; one device if None.
        options: what the training writes and checks on the way.
        announce: is told what is going to be done, before a model is loaded and the folder claimed.

    Raises:
        InputError: wrong inputs, settings that cannot work, a folder that holds another run, or
            an output that another run has made.
    """

    def __init__(
        self,
        config: TeacherConfig,
        workdir: epath.PathLike,
        output: epath.PathLike | None = None,
        *,
        mesh: Mesh | None = None,
        options: RunOptions = RunOptions(),
        announce: Announce = no_announcement,
    ):
        mesh = one_device() if mesh is None else mesh
        self.config, self._mesh, self._options = config, mesh, options
        check_batch(config.training.batch_size, mesh, microbatches=config.training.microbatches)
        self._read_inputs()
        if config.plant is not None:
            self.dataset.require_single_answers('planting circuits')
            self._classes = planted_classes(self.dataset, config.plant)
            K, shape = int(self._classes.max()) + 1, self._shape
            self._plan = draw_plan(config.plant.plan, K, shape.num_layers, shape.intermediate_size)
            check_training(config.training, self._plan, mesh)
            if config.plant.weights.nuisance:
                nuisance_labels(self.dataset, config.plant.plan.seed)  # what has none is refused
        needed = least_training_bytes(
            self._shape,
            config.training.batch_size // config.training.microbatches,
            self.dataset.tokens.shape[1],
            remat=config.training.remat,
            dtype=config.training.compute_dtype,
            answer_tokens=self.dataset.answer_tokens,
        )
        check_memory(needed, mesh, batch_size=config.training.batch_size)
        usual, problems = LanguageModelConfig.batch_size, len(self.split.train)
        check_repeats(config.training.batch_size, problems, usual)
        facts = {**dataclasses.asdict(config), 'data': self.dataset.hash}
        if self._inputs is not None:
            facts['inputs'] = self._inputs.facts()
        # A model under another name would be another run's, or would not be written at all.
        self._output = absolute(workdir) / 'model' if output is None else absolute(output)
        facts['output'] = None if output is None else str(self._output)
        folder = check_workdir(workdir, facts, name='train_teacher')
        taken = lambda: self._output.exists() and stored_config(folder) is None
        if as_process_0_sees(taken):
            raise InputError(
                f'--output={output} exists, and this is not the run that made it: name another '
                'folder'
            )
        require_writable(self._output)
        announce(Outlook('train_teacher', folder, as_json(facts), self._stages(folder), mesh))
        self.workdir = open_workdir(workdir, facts, name='train_teacher')

    def _stages(self, folder: epath.Path) -> tuple[Stage, ...]:
        training, length = self.config.training, self.dataset.tokens.shape[1]
        steps = training.optimizer.steps
        planted = self.config.plant is not None
        name = 'plant circuits' if planted and not self._plan.empty else 'train teacher'
        memory = training_bytes(self._shape, training, length, self.dataset.answer_tokens)
        stages = [
            training_stage(name, steps, folder, memory=memory),
            passes_stage('export the teacher', self._output),
        ]
        if planted:
            stages.append(passes_stage('verify what is planted', self._output / f'{NAME}.json'))
        return tuple(stages)

    def _read_inputs(self) -> None:
        config = self.config.inputs
        self.dataset: Dataset
        self.split: Split
        if config.teacher is not None:
            self._inputs = Inputs(config)
            self._shape = self._inputs.teacher_config
            self.dataset, self.split = self._inputs.dataset, self._inputs.split
            return
        self._inputs = None
        self._tokenizer = build_arithmetic_tokenizer(self.config.shape.max_number)
        self._shape = self.config.shape.config(len(self._tokenizer))
        self.dataset = encode_task(config.task, self._tokenizer, **config.encoding)
        self.split = split(
            self.dataset, share=config.share, test=config.test, seed=config.split_seed
        )

    def run(self) -> Trained:
        """Trains what has not been trained yet, exports the teacher and measures it."""
        config, unseen = self.config, self.dataset[self.split.test]
        passes = {'mesh': self._mesh, 'tokens_per_pass': self._options.tokens_per_pass}
        accuracy = lambda model: predict(model, unseen, **passes).accuracy
        settings = {
            'mesh': self._mesh,
            'workdir': self.workdir,
            'evaluate': lambda model: {'accuracy': accuracy(model)},
            'evaluate_every': config.evaluate_every,
            'best': BEST,
            'options': self._options,
        }
        model, _ = self._train(settings)
        model = exported(model, self.workdir, config.export)
        if not as_process_0_sees(self._output.exists):
            self._save(model)
        if config.plant is not None:
            self._tell_ground_truth(model)
        return Trained(model, self._output, accuracy(model), len(unseen))

    def _train(self, settings: dict[str, Any]) -> tuple[Llama, list[Point]]:
        config, problems = self.config, self.dataset[self.split.train]
        if config.plant is None or self._plan.empty:
            description = 'train teacher'
            return train_language_model(
                self._start(), problems, config.training, description=description, **settings
            )
        classes = self._classes[self.split.train]
        return train_planted(
            self._start(), problems, classes, self._plan, config.plant, config.training, **settings
        )

    def _start(self) -> LlamaConfig | Llama:
        if self._inputs is None:
            return self._shape
        return self._inputs.load_teacher(self._mesh)

    def _tell_ground_truth(self, model: Llama) -> None:
        """Writes what is planted, as far as it is necessary, beside the checkpoint, once."""
        if as_process_0_sees((self._output / f'{NAME}.json').exists):
            return
        verified = verify(
            model,
            self.dataset,
            self.split.train,
            self.split.test,
            self._classes,
            self._plan,
            mesh=self._mesh,
            tokens_per_pass=self._options.tokens_per_pass,
        )
        truth = GroundTruth(
            self._plan.shared,
            self._plan.specific,
            verified.necessary,
            verified.living,
            np.asarray(self._classes, np.int32),
            {
                'model': model_hash(model),
                'data': self.dataset.hash,
                'plant': dataclasses.asdict(self.config.plant),
                'verification': verified.figures,
            },
        )
        truth.save(self._output)
        truth.warn_unless_sufficient()

    def _save(self, model: Llama) -> None:
        config = self.config.inputs
        before, tokenizer = (), self.workdir / 'tokenizer'
        if self._inputs is not None:
            tokenizer = self._inputs.tokenizer_path
            before = read_training_data(self._inputs.teacher_path)
        elif jax.process_index() == 0:
            save_tokenizer(self._tokenizer, tokenizer)
        trained = TrainingData(
            self.dataset.hash, config.split_seed, config.share, config.test, 'train'
        )
        save_huggingface(
            model,
            self._output,
            tokenizer_from=tokenizer,
            beside=training_data_file([*before, trained]),
        )
