"""What a computation in 16 bits keeps and sums, where the weights are float32."""

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.models import Llama, LlamaConfig
from cdjax.models.blocks import Embedding

# A loop over the layers, which stacks what it keeps.
LOOPED = LlamaConfig(16, 8, 24, 6, 2, 1, 4)


def test_gradients_of_a_token_in_every_row_are_summed_in_float32():
    """In bfloat16 a sum of ones stays at 256."""
    table = Embedding(4, 2, jax.random.key(0), jnp.float32, 1.0)
    tokens = jnp.zeros((1000, 1), jnp.int32)
    total = lambda table: table(tokens, jnp.bfloat16).astype(jnp.float32).sum()
    gradient = jax.jit(jax.grad(total))(table)
    np.testing.assert_array_equal(np.asarray(gradient.weight[...])[0], [1000.0, 1000.0])


def test_a_backward_pass_keeps_no_rounded_weights_and_no_widened_activations():
    model = jax.eval_shape(lambda: Llama(LOOPED, jax.random.key(0)))
    tokens = jnp.zeros((2, 3), jnp.int32)
    loss = lambda model: model(tokens, dtype=jnp.bfloat16, logits_at=-1)[0].sum()
    backward = jax.eval_shape(lambda model: jax.vjp(loss, model)[1], model)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape[:1] == (LOOPED.num_layers,)]
    assert kept, 'the blocks keep nothing'
    weights = {leaf.shape for leaf in jax.tree.leaves(model.layers)}
    assert not [leaf for leaf in kept if leaf.shape in weights and leaf.dtype == jnp.bfloat16]
    widened = (LOOPED.num_layers, *tokens.shape, LOOPED.hidden_size)
    assert not [leaf for leaf in kept if leaf.shape == widened and leaf.dtype == jnp.float32]
