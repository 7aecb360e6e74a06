"""What a study starts from: checkpoints, tokenizer, problems and their split."""

import copy
import dataclasses
import functools
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import cdjax
from cdjax.circuits.circuit import Circuit, model_hash, tokenizer_hash
from cdjax.data import (
    Dataset,
    Split,
    encode_task,
    split,
)
from cdjax.data.limits import Limits
from cdjax.data.splits import smaller_share
from cdjax.data.text import TextRows, read_text
from cdjax.data.training_data import (
    TrainingData,
    count_seen,
    read_training_data,
    training_data_file,
)
from cdjax.errors import InputError
from cdjax.inference.predictions import predict
from cdjax.models import Llama, LlamaConfig, load_huggingface
from cdjax.models.config import PRESETS
from cdjax.models.hub import resolve_checkpoint, resolve_shape
from cdjax.models.huggingface import check_huggingface, read_shape
from cdjax.models.tensor_files import fingerprint
from cdjax.parallel.mesh import init_sharded, one_device
from cdjax.studies.inputs_config import SHAPE_FILE, TEACHER_DTYPES, InputsConfig
from cdjax.studies.tokenizers import (
    check_same_tokenizer,
    has_tokenizer,
    read_tokenizer,
    stand_in_tokenizer,
)

TEXT_ROW = 256  # tokens of a row of a text
EMBEDDED_TEACHER = Path(cdjax.__file__).parent / 'assets' / 'teacher'


class Inputs:
    """The inputs of a study. Whatever is wrong with them is found before a weight is loaded.

    Attributes:
        config: what decides them.
        teacher_path: the teacher's checkpoint folder, None for random weights of a preset.
        teacher_config: its shape.
        student_path: the student's folder, likewise; None for a student from nothing.
        has_student: whether there is a student to start from, rather than one from nothing.
        tokenizer: the teacher's; with random weights, where its folder has none, one of our own
            that like Llama 3's has one token for each number.
        tokenizer_path: the folder that holds it, None for our own.
        dataset: all problems that fit the tokenizer; with `only_correct`, from the moment that the
            teacher is loaded on, those that it answers.
        right: how many problems the teacher answers, and of how many; None unless only those are
            kept.
        split: their split by canonical form; with limits, `share` and `test` are within them.
        beyond: int, the problems of unseen forms beyond the limits; none without limits.
        text: the rows of the text; None without one.
        others: key or path → the problems of each other task.
        rival_answers: like the answers of `dataset`, those of the rival task; None without one.
        trainings: what the student to start from was trained on, as far as its folder says.

    Raises:
        InputError: a folder without config or tokenizer, a preset where weights are needed, a
            student of another vocabulary, tokenizer or rule for BOS, a task file with a broken
            line, a range that leaves the tokenizer's single-token numbers, a student that was
            trained on problems held out here.
    """

    def __init__(self, config: InputsConfig):
        self.config = config
        self.teacher_config, self.teacher_path = self._resolve(
            config.teacher or EMBEDDED_TEACHER, TEACHER_DTYPES[config.teacher_dtype]
        )
        self.has_student, self.student_path = config.has_student, None
        if config.student is not None:
            self._read_student(config.student)
        self.tokenizer_path = self.teacher_path
        if config.random_weights and not has_tokenizer(self.teacher_path):
            self.tokenizer_path = None
            self.tokenizer = stand_in_tokenizer(self.teacher_config.vocab_size)
        else:
            self.tokenizer = read_tokenizer(self.teacher_path)
            self._check_student_tokenizer()
        self.dataset: Dataset = encode_task(config.task, self.tokenizer, **config.encoding)
        self._all, self.right = self.dataset, None
        self.split: Split = split(
            self.dataset, share=config.share, test=config.test, seed=config.split_seed
        )
        self.beyond = np.zeros(0, np.int64)
        if not config.limits.none:
            self._keep_within(config.limits)
        self.rival_answers = None if config.rival is None else self._read_rival(config.rival)
        self.text: TextRows | None = None
        if config.text is not None:
            length = min(TEXT_ROW, self.teacher_config.max_length, self.student_config.max_length)
            self.text = read_text(config.text, self.tokenizer, length)
        self.others: dict[str, Dataset] = {
            task: encode_task(task, self.tokenizer, **config.encoding)
            for task in config.other_tasks
        }
        self.trainings: tuple[TrainingData, ...] = ()
        if not config.random_weights:
            self._check_trainings()

    def _keep_within(self, limits: Limits) -> None:
        """Leaves out of the share, and out of what is held out, what is beyond the limits."""
        within, whole = limits.within(self.dataset, self.config.prefix), self.split
        share, test = (rows[within[rows]] for rows in (whole.share, whole.test))
        self.split = Split(whole.train, share, test)
        self.beyond = whole.test[~within[whole.test]]
        parts = {'in the share': share, 'held out within': test, 'held out beyond': self.beyond}
        empty = [name for name, rows in parts.items() if not len(rows)]
        if empty:
            raise InputError(
                f'share_where or share_high leaves no problem {empty[0]}: choose other limits, or '
                'larger parts'
            )

    def _read_rival(self, key: str) -> np.ndarray:
        theirs = encode_task(key, self.tokenizer, **self.config.encoding)
        if not np.array_equal(theirs.prompts, self.dataset.prompts):
            raise InputError(f'rival={key} has other prompts: name a task of the same ones')
        for answers in (self.dataset, theirs):
            # Behind the tokens of the right answer nobody gives the other rule's.
            answers.require_single_answers(f'rival={key}')
        return theirs.answers

    def with_share(self, problems: int) -> 'Inputs':
        """Returns the same inputs with a smaller share, part of this one; see `smaller_share`."""
        smaller = copy.copy(self)
        smaller.split = smaller_share(
            self.dataset, self.split, problems, seed=self.config.split_seed
        )
        return smaller

    def _read_student(self, name: str) -> None:
        if self.has_student:
            self.student_config, self.student_path = self._resolve(name, jnp.float32)
        elif name.endswith(SHAPE_FILE):
            self.student_config = read_shape(name)
        else:
            self.student_config = LlamaConfig.preset(name)
        if self.student_config.vocab_size != self.teacher_config.vocab_size:
            raise InputError(
                f'the student {name} has {self.student_config.vocab_size} tokens and the teacher '
                f"{self.teacher_config.vocab_size}: name a student of the teacher's vocabulary"
            )

    def _check_student_tokenizer(self) -> None:
        """Raises InputError for a student of another tokenizer, and warns of one that has none."""
        if has_tokenizer(self.student_path):
            theirs = read_tokenizer(self.student_path)
            check_same_tokenizer(self.tokenizer, theirs, self.student_path, '1')
        elif self.student_path is not None and not self.config.random_weights:
            warnings.warn(
                f'student={self.student_path} has no tokenizer, and its tokens are taken to mean '
                "what the teacher's do: put the tokenizer.json and tokenizer_config.json of its "
                'training there, and they are compared',
                stacklevel=3,
            )

    @functools.cached_property
    def student_config(self) -> LlamaConfig:
        """The shape of the student; where none is named, half the teacher's width."""
        return self.teacher_config.half_width()

    def _check_trainings(self) -> None:
        """Reads what the models were trained on; problems held out here must be none of it."""
        unseen = np.concatenate([self.split.test, self.beyond])
        seen, _ = count_seen(read_training_data(self.teacher_path), self.dataset, unseen)
        if seen:
            warnings.warn(
                f'the teacher was trained on {seen:,} of the {len(unseen):,} problems that are '
                'held out here, and may answer them from memory: take the split flags it was '
                'trained with',
                stacklevel=3,
            )
        if not self.has_student:
            return
        self.trainings = read_training_data(self.student_path)
        seen, others = count_seen(self.trainings, self.dataset, unseen)
        if seen:
            raise InputError(
                f'student={self.config.student} was trained on {seen:,} of the {len(unseen):,} '
                'problems that are held out here, and would be measured on what it remembers: give '
                f'the split flags of its training, {self.trainings[-1].flags}'
            )
        if others:
            warnings.warn(
                f'the student {self.config.student} was trained on other data sets too; whether '
                'problems that are held out here were among them is not known',
                stacklevel=3,
            )

    def training_data(self, *parts: str, from_student: bool) -> dict[str, str]:
        """Returns the file that says what a student was trained on, see `training_data_file`.

        Args:
            *parts: what it was trained on here, in order, of `cdjax.data.training_data.PARTS`.
            from_student: whether it started from the student's checkpoint, not from nothing.
        """
        split = {name: getattr(self.config, name) for name in ('split_seed', 'share', 'test')}
        here = [TrainingData(self.dataset.hash, part=part, **split) for part in parts]
        return training_data_file([*(self.trainings if from_student else ()), *here])

    def _resolve(self, name: str | Path, dtype) -> tuple[LlamaConfig, Path | None]:
        """Returns the shape of a model and the folder of its checkpoint, whose files fit it."""
        if self.config.random_weights:
            return resolve_shape(name)
        if name in PRESETS:
            raise InputError(
                f'teacher={name} is a shape without weights: name a checkpoint folder or a hub id, '
                'or add --random_weights to try speed and memory'
            )
        folder = resolve_checkpoint(name)
        return check_huggingface(folder, dtype=dtype), folder

    def facts(self) -> dict:
        """Returns what identifies the inputs in config.json, hashes included.

        What lies under the path of a checkpoint, or of a task file, may be another the next time.
        """
        random = self.config.random_weights
        weights = lambda folder: None if random or folder is None else fingerprint(folder)
        return {
            **dataclasses.asdict(self.config),
            'data': self._all.hash,
            'text_tokens': None if self.text is None else self.text.hash,
            'other_data': {task: others.hash for task, others in self.others.items()},
            'tokenizer': tokenizer_hash(self.tokenizer),
            'teacher_weights': weights(self.teacher_path),
            'student_weights': weights(self.student_path),
        }

    @property
    def origin(self) -> dict:
        """What circuits that are discovered in these inputs record of them."""
        config = self.config
        origin = {
            'tokenizer': tokenizer_hash(self.tokenizer),
            'split': {'split_seed': config.split_seed, 'share': config.share, 'test': config.test},
        }
        return origin if self.right is None else origin | {'only_correct': self.right}

    def check_circuits(self, circuit: Circuit, name: str, *, model: Llama | None = None) -> None:
        """Raises InputError unless circuits were discovered in these problems and this split.

        With `only_correct` the problems are known from the moment that the teacher is loaded on;
        until then they are not compared.

        Args:
            circuit: the circuits.
            name: what the user calls them, `--circuits=PATH`.
            model: the model that they are going to be used in, where it is loaded already.
        """
        origin = self.origin
        wanted = {'tokenizer': origin['tokenizer']}
        if self.right is not None or not self.keeps_right:
            rows = self.dataset[self.split.train].hash
            wanted = {'data': self.dataset.hash, 'rows': rows, **wanted}
        if model is not None:
            wanted['model'] = model_hash(model)
        circuit.check_belongs(name, split=origin['split'], **wanted)

    @property
    def teacher_dtype(self) -> str:
        """The dtype of the teacher's weights: as asked for, as its config says, or bfloat16."""
        if self.config.teacher_dtype != 'stored':
            return self.config.teacher_dtype
        if self.teacher_path is None:
            return 'bfloat16'
        fields = json.loads((self.teacher_path / 'config.json').read_text())
        return fields.get('dtype') or fields.get('torch_dtype') or 'float32'

    def load_teacher(self, mesh: Mesh | None = None) -> Llama:
        """Loads the teacher onto the mesh, one device if None.

        Raises:
            InputError: only problems that it answers were asked for, and one part has none.
        """
        mesh = one_device() if mesh is None else mesh
        if self.config.random_weights:
            model = _random_model(self.teacher_config, jnp.dtype(self.teacher_dtype), 0, mesh)
        else:
            dtype = TEACHER_DTYPES[self.config.teacher_dtype]
            model = load_huggingface(self.teacher_path, mesh=mesh, dtype=dtype)
        if self.keeps_right and self.right is None:
            self._keep_right(model, mesh)
        return model

    @property
    def keeps_right(self) -> bool:
        """Whether what the teacher answers wrong is left out; random weights answer nothing."""
        return self.config.only_correct and not self.config.random_weights

    def _keep_right(self, model: Llama, mesh: Mesh) -> None:
        """Leaves out the problems that a model answers wrong; the others stay in their parts."""
        right = predict(model, self._all, mesh=mesh, description='what it answers').correct
        place = np.cumsum(right) - 1
        kept = lambda rows: place[rows[right[rows]]]
        parts = Split(*map(kept, self.split))
        self.right = {'right': int(right.sum()), 'of': len(right)}
        empty = [name for name, rows in zip(Split._fields, parts, strict=True) if not len(rows)]
        if empty:
            raise InputError(
                f'only_correct leaves {self.right["right"]:,} of {len(right):,} problems, and none '
                f'in the part {empty[0]!r}: choose problems that the teacher can do, or train it'
            )
        left_out = {**self._all.left_out, 'the teacher answers wrong': int((~right).sum())}
        self.dataset = dataclasses.replace(self._all[right], left_out=left_out)
        self.split, self.beyond = parts, kept(self.beyond)
        if self.rival_answers is not None:
            self.rival_answers = self.rival_answers[right]

    def load_student(self, mesh: Mesh | None = None) -> Llama:
        """Loads the student to start from, in float32: it is going to be trained.

        Args:
            mesh: where it lies; one device if None.

        Raises:
            InputError: there is none.
        """
        mesh = one_device() if mesh is None else mesh
        if not self.has_student:
            raise InputError('there is no student checkpoint: name one with --student')
        if self.config.random_weights:
            return _random_model(self.student_config, jnp.float32, 1, mesh)
        return load_huggingface(self.student_path, mesh=mesh, dtype=jnp.float32)


def _random_model(config: LlamaConfig, dtype, seed: int, mesh: Mesh) -> Llama:
    init = lambda key: Llama(config, key, dtype=dtype)
    return init_sharded(init, jax.random.key(seed), mesh)
