"""What the programs of all jobs are made of, for `cdjax.planning.compiling` to compile.

A job is described by shapes: `distillation_programs.DistillationShapes` or
`discovery_programs.DiscoveryShapes`. Its programs are those of the run itself, with
`ShapeDtypeStruct`s in place of arrays.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cdjax.errors import InputError
from cdjax.inference.activations import answer_rows
from cdjax.models.config import LlamaConfig, RopeScaling
from cdjax.models.llama import REMAT_POLICIES, Llama
from cdjax.models.parameters import abstract_model
from cdjax.parallel.mesh import (
    FSDP,
    LLAMA_RULES,
    Rules,
    batch_sharding,
    neurons_sharding,
    parameter_shardings,
)
from cdjax.planning.compiling import Program
from cdjax.planning.roofline import Work
from cdjax.training.loop import TrainState, state_shardings

DTYPES = ('float32', 'bfloat16')


class JobShapes(Protocol):
    """All that decides how much memory and time a job takes; a frozen dataclass.

    Attributes:
        batch_size: rows of a training step, over all devices (B).
        microbatches: parts of it that are computed one after the other.
        length: positions of a row (T).
        num_problems: rows of the store (N).
    """

    batch_size: int
    microbatches: int
    length: int
    num_problems: int

    builder: typing.ClassVar[str]  # a `Builder` of `cdjax.planning.compiling`, as 'module:function'

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
        """What one call of each program does, on a mesh."""


def check_shapes(shapes: Any) -> None:
    """Raises InputError for sizes, dtypes or policies that cannot be."""
    for name in ('batch_size', 'length', 'num_problems', 'teacher_batch_size'):
        if getattr(shapes, name) < 1:
            raise InputError(f'{name}={getattr(shapes, name)} must be at least 1')
    for name in ('teacher_dtype', 'compute_dtype'):
        if getattr(shapes, name, DTYPES[0]) not in DTYPES:
            raise InputError(f'{name}={getattr(shapes, name)}: choose one of {", ".join(DTYPES)}')
    if shapes.remat not in REMAT_POLICIES:
        raise InputError(f'remat={shapes.remat}: choose one of {", ".join(REMAT_POLICIES)}')


def config_from_dict(fields: dict[str, Any] | None) -> LlamaConfig | None:
    """Returns the config that `dataclasses.asdict` has taken apart."""
    if fields is None:
        return None
    scaling = fields['rope_scaling']
    return LlamaConfig(**{**fields, 'rope_scaling': scaling and RopeScaling(**scaling)})


def abstract_rows(mesh: Mesh, name: str, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    """Returns an array of a batch, as `put_batch` would place it."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, name, shape))


def abstract_neurons(mesh: Mesh, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Returns float32 masks or means, as `split_neurons` would place them."""
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=neurons_sharding(mesh, shape))


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


def activations_pass(
    name: str,
    model: Llama,
    mesh: Mesh,
    *,
    batch_size: int,
    length: int,
    layers: tuple[int, ...] | None,
    work: Work,
    top_k: tuple[int, float] | None = None,
) -> Program:
    """Returns the program of `answer_logits_and_activations`: one batch of a frozen model's pass.

    Args:
        name: of the model.
        model: as `abstract_weights` returns it.
        mesh: the mesh.
        batch_size: rows, rounded up to the mesh.
        length: positions of a row.
        layers: whose neurons are kept; all if None.
        work: what the pass does.
        top_k: see `answer_logits_and_activations`.
    """
    ways = mesh.shape[FSDP]
    B = -(-batch_size // ways) * ways
    rows = {
        'tokens': abstract_rows(mesh, 'tokens', (B, length), jnp.int32),
        'lengths': abstract_rows(mesh, 'lengths', (B,), jnp.int32),
    }
    # Whole on every device, as several processes fetch it.
    everywhere = NamedSharding(mesh, PartitionSpec())
    collect = jax.jit(answer_rows('neurons', layers, None, top_k), out_shardings=everywhere)
    return Program(f'{name} pass', collect, (model, rows), {name: model, 'batch': rows}, work)


def _with_shardings(tree: Any, shardings: Any) -> Any:
    give = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(give, tree, shardings)
