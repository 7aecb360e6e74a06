"""What float32 means on an accelerator: products of float32, whatever the hardware would rather do.

Unless told otherwise a TPU multiplies float32 in bfloat16 and a GPU in TF32: eight and eleven bits
of 24, without a word. Losses, certificates and the choice of a class then differ between machines
that run one configuration. Here the dtype of a computation says how exact it is, everywhere; who
would rather be fast asks for `bfloat16` (`compute_dtype`, `teacher_dtype`), which is printed and
stored with the run.
"""

import contextlib

import jax
import jax.numpy as jnp


def exact_products(dtype) -> contextlib.AbstractContextManager:
    """Returns the context in which to trace a computation: products of float32 stay float32.

    It overrides the ambient `jax_default_matmul_precision`, and is written into each product that
    is traced within, so that those of its backward pass have it too. Of another dtype, whose
    products are exact on all accelerators, the context does nothing.

    Args:
        dtype: of the computation.
    """
    if jnp.dtype(dtype) == jnp.float32:
        return jax.default_matmul_precision('highest')
    return contextlib.nullcontext()
