"""Gradient accumulation: the batch of many devices on few."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cdjax.errors import InputError


def check_batch_size(batch_size: int, microbatches: int) -> None:
    """Raises InputError unless a batch has rows that divide into its microbatches."""
    if batch_size < 1:
        raise InputError(f'batch_size={batch_size}: at least 1 problem a step is needed')
    if microbatches < 1 or batch_size % microbatches:
        raise InputError(
            f'microbatches={microbatches} does not divide batch_size={batch_size}: choose one of '
            f'{[n for n in range(1, batch_size + 1) if batch_size % n == 0]}'
        )


def check_repeats(batch_size: int, problems: int, usual: int, *, name: str = 'batch_size') -> None:
    """Raises InputError for a batch of more than all problems, which repeats them for nothing.

    One of the usual size may: few problems need not be given a batch of their own.

    Args:
        batch_size: problems a step.
        problems: that are learned from, N.
        usual: the batch of a training that is given none.
        name: of the flag that sets it.
    """
    if batch_size > max(problems, usual):
        raise InputError(
            f'{name}={batch_size} is more than the {problems} problems that are learned from: '
            f'choose {name}={problems} or less'
        )


def accumulate_gradients(
    loss_and_grad: Callable[..., Any], microbatches: int
) -> Callable[..., Any]:
    """Wraps a gradient function such that it sees a batch in parts, one after the other.

    Activations of one part are alive at a time. Where the loss is a mean over rows, the result
    is that of the whole batch, up to the order of the sum. A term that compares rows with each
    other (CKA, similarity, usage) compares those of a part, and is averaged over the parts.

    Row r goes to part r mod `microbatches`: every device keeps the rows that it has.

    Args:
        loss_and_grad: (params, batch, *args) → a pytree of floating-point means, such as
            `jax.value_and_grad(loss, has_aux=True)` gives.
        microbatches: into how many parts to cut the batch.

    Returns:
        A function of the same arguments that returns the means over the parts, accumulated in
        float32 and cast back. It raises ValueError where rows do not divide into the parts.
    """
    if microbatches == 1:
        return loss_and_grad
    loss_and_grad = jax.jit(loss_and_grad, inline=True)  # traced once, for its shapes and the loop

    def split(x):
        if x.shape[0] % microbatches:
            raise ValueError(
                f'a batch of {x.shape[0]} rows does not divide into {microbatches} microbatches'
            )
        return jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)

    def accumulated(params, batch, *args):
        parts = jax.tree.map(split, batch)
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), parts)
        result = jax.eval_shape(loss_and_grad, params, first, *args)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), result)

        def add(total, part):
            found = loss_and_grad(params, part, *args)
            return jax.tree.map(lambda t, x: t + x.astype(jnp.float32), total, found), None

        total, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda t, x: (t / microbatches).astype(x.dtype), total, result)

    return accumulated


def first_microbatch(batch: Any, microbatches: int) -> Any:
    """Returns the first of a host batch's parts: rows to look at, in the memory of a step."""
    return jax.tree.map(lambda rows: rows[::microbatches], batch)
