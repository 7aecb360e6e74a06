"""What a job is, and what the programs of all jobs are made of.

A job is a stage of a run, described by the configuration of that run and by the shapes of what it
is given. Its programs are those of the run itself, with `ShapeDtypeStruct`s in place of arrays.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.models.llama import Llama
from cdjax.models.parameters import abstract_model
from cdjax.parallel.mesh import (
    LLAMA_RULES,
    Rules,
    batch_sharding,
    neurons_sharding,
    parameter_shardings,
)
from cdjax.planning.roofline import Work
from cdjax.training.state import TrainState, state_shardings

DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function of a run and the shapes it is called with.

    Attributes:
        name: what it does, such as 'student step'.
        step: the function, jitted, with the donations of the real run.
        arguments: pytrees of `jax.ShapeDtypeStruct` with shardings.
        kinds: the same leaves sorted by what they are: 'parameters', 'optimizer', 'store', ...
        work: what one call does.
        beside: what lies on the devices while it runs and is no argument, by kind.
    """

    name: str
    step: Callable[..., Any]
    arguments: Sequence[Any]
    kinds: Mapping[str, Any]
    work: Work
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class TrainingConfig(Protocol):
    """What every training says of its batches."""

    batch_size: int
    microbatches: int


class Job(Protocol):
    """All that decides how much memory and time a stage takes; a frozen dataclass.

    It holds the configuration of the run, not a choice of its fields: what is added there needs no
    second edit here. It is pickled for the process that compiles it.

    Attributes:
        config: of the training.
        length: positions of a row (T).
        num_problems: rows of the store (N).
    """

    config: TrainingConfig
    length: int
    num_problems: int

    @property
    def models(self) -> Mapping[str, tuple[LlamaConfig, str]]:
        """Name -> shape and dtype of each model that is loaded or made."""

    @property
    def least_batch(self) -> int:
        """Rows of the smallest training step whose losses are defined."""

    @property
    def store_bytes(self) -> int:
        """Host memory of what the frozen models say of all problems."""

    def works(self, fsdp: int, tensor: int) -> list[Work]:
        """What one call of each program does, on a mesh; the training step is the last."""

    def programs(self, mesh: Mesh) -> list[Program]:
        """Returns the programs, the training step last.

        Raises:
            InputError: the rows of the batch do not divide over the mesh.
        """

    def with_batch(self, rows: int) -> Self:
        """Returns the job with batches of so many rows."""


def check_job(job: Any) -> None:
    """Raises InputError for sizes or a teacher's dtype that cannot be."""
    for name in ('length', 'num_problems'):
        if getattr(job, name) < 1:
            raise InputError(f'{name}={getattr(job, name)} must be at least 1')
    if job.teacher_dtype not in DTYPES:
        raise InputError(f'teacher_dtype={job.teacher_dtype}: choose one of {", ".join(DTYPES)}')


def abstract_rows(mesh: Mesh, name: str, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    """Returns an array of a batch, as `put_batch` would place it."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, name, shape))


def abstract_neurons(mesh: Mesh, shape: tuple[int, ...], dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    """Returns masks or means, as `split_neurons` would place them."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=neurons_sharding(mesh, shape))


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Returns shapes of what lies whole on every device, as `replicate` would place it."""
    whole = NamedSharding(mesh, PartitionSpec())
    return _with_shardings(tree, jax.tree.map(lambda _: whole, tree))


def abstract_weights(config: LlamaConfig, dtype: str, mesh: Mesh) -> Llama:
    """Returns a frozen model on the mesh."""
    model = abstract_model(config, jnp.dtype(dtype))
    return _with_shardings(model, parameter_shardings(model, mesh))


def abstract_state(
    init_params: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: Rules = LLAMA_RULES,
) -> TrainState:
    """Returns the shapes and shardings of the state that `init_state` makes."""

    def init(key):
        params = init_params(key)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), key)

    state = jax.eval_shape(init, jax.random.key(0))
    return _with_shardings(state, state_shardings(state, tx, mesh, rules))


def frozen_pass(
    name: str,
    what: str,
    jitted: Callable[..., Any],
    model: Llama,
    mesh: Mesh,
    rows: int,
    length: int,
    work: Work,
) -> Program:
    """Returns the program of a frozen model's pass over a data set: one batch of it.

    Args:
        name: of the model.
        what: the pass takes of it, 'answers'.
        jitted: what `jit_rows` or `jit_sum` of `cdjax.inference.rows` return, of `tokens` and
            `lengths`.
        model: as `abstract_weights` returns it.
        mesh: the mesh.
        rows: of a batch, see `cdjax.inference.rows.rows_per_pass`.
        length: positions of a row.
        work: what the pass does.
    """
    batch = {
        'tokens': abstract_rows(mesh, 'tokens', (rows, length), jnp.int32),
        'lengths': abstract_rows(mesh, 'lengths', (rows,), jnp.int32),
    }
    counts = abstract_rows(mesh, 'counts', (rows,), jnp.bool_)
    kinds = {name: model, 'batch': (batch, counts)}
    return Program(f'{name} {what}', jitted, (model, batch, counts), kinds, work)


def _with_shardings(tree: Any, shardings: Any) -> Any:
    give = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(give, tree, shardings)
