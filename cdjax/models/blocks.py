"""The modules of one layer, and the points in it where activations are edited and captured.

A block calls `site(key, value)` where it computes the activation of a site, and goes on with what
that returns; its own input, `residual`, is passed through `site` by the model. Matrices are stored
`[in, out]`. With `relp=True` the backward pass of a module is that of RelP, see
`cdjax.models.llama.BACKWARDS`; without it nothing is passed to a module.

Letters: B batch, T positions of this call, P those that are read of them, S positions of keys and
values, d width, H query heads, J key and value heads, h width of a head, F neurons.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from cdjax.models.config import LlamaConfig
from cdjax.models.positions import take_positions
from cdjax.models.prefix import Prefix
from cdjax.models.rope import rotate
from cdjax.parallel.mesh import constrain


class Linear(nnx.Module):
    """A matrix `[in, out]` without bias."""

    def __init__(self, n_in, n_out, key, dtype, std):
        weight = jax.random.normal(key, (n_in, n_out), jnp.float32) * std
        self.weight = nnx.Param(weight.astype(dtype))

    def __call__(self, x):
        weight = self.weight[...]
        return x @ weight if weight.dtype == x.dtype else rounded_product(x, weight)


@functools.partial(jax.checkpoint, prevent_cse=False)
def rounded_product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns `x @ weight` in the dtype of x.

    A backward pass rounds the weight again: kept, those of all layers are a second model in 16
    bits, which a loop over the layers writes and reads once more.
    """
    return x @ weight.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in float32 and rounded once."""

    def __init__(self, width, eps, dtype):
        self.weight = nnx.Param(jnp.ones(width, dtype))
        self.eps = eps

    def __call__(self, x, relp=False):
        norm = functools.partial(rms_norm, eps=self.eps, relp=relp)
        if x.dtype != jnp.float32:
            # A backward pass widens x again: what would be kept is four times as large as x.
            norm = jax.checkpoint(norm, prevent_cse=False)
        return norm(x, self.weight[...])


def rms_norm(x: jax.Array, weight: jax.Array, *, eps: float, relp: bool) -> jax.Array:
    """Returns `weight * x / rms(x)` in the dtype of x; with `relp` the rms has no gradient."""
    y = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
    y = y * (jax.lax.stop_gradient(scale) if relp else scale)
    weight = jnp.expand_dims(weight, range(x.ndim - 1))
    return (weight.astype(jnp.float32) * y).astype(x.dtype)


class Embedding(nnx.Module):
    """The token embedding `[V, d]`."""

    def __init__(self, vocab_size, width, key, dtype, std):
        weight = jax.random.normal(key, (vocab_size, width), jnp.float32) * std
        self.weight = nnx.Param(weight.astype(dtype))

    def __call__(self, tokens, dtype):
        # Rounded behind the gather, so that the gradients of a token's rows are summed in float32:
        # of one that is in every prompt, 16 bits would lose most.
        return self.weight[...][tokens].astype(dtype)


class Attention(nnx.Module):
    """Grouped-query attention; `head_out` is edited before the output projection."""

    def __init__(self, config: LlamaConfig, key, dtype, std):
        c, keys = config, jax.random.split(key, 4)
        self.q = Linear(c.hidden_size, c.num_heads * c.head_dim, keys[0], dtype, std)
        self.k = Linear(c.hidden_size, c.num_kv_heads * c.head_dim, keys[1], dtype, std)
        self.v = Linear(c.hidden_size, c.num_kv_heads * c.head_dim, keys[2], dtype, std)
        self.o = Linear(c.num_heads * c.head_dim, c.hidden_size, keys[3], dtype, std)
        self.head_dim = c.head_dim

    def __call__(self, x_BxTxd, positions_BxT, rotation, site, cache, read=None, relp=False):
        split = lambda y: y.reshape(*y.shape[:2], -1, self.head_dim)
        reading = lambda y: take_positions(y, read)
        q_BxPxHxh = rotate(split(self.q(reading(x_BxTxd))), jax.tree.map(reading, rotation))
        k_BxSxJxh = rotate(split(self.k(x_BxTxd)), rotation)
        v_BxSxJxh = split(self.v(x_BxTxd))
        if relp:  # the pattern depends on queries and keys alone
            q_BxPxHxh, k_BxSxJxh = jax.lax.stop_gradient((q_BxPxHxh, k_BxSxJxh))
        whole, at_BxS = cache is None and read is None, None
        if isinstance(cache, Prefix):
            k_BxSxJxh, v_BxSxJxh, at_BxS = cache.in_front_of(k_BxSxJxh, v_BxSxJxh, positions_BxT)
            cache = None
        elif cache is not None:
            cache = k_BxSxJxh, v_BxSxJxh = tuple(
                write_rows(old, new, positions_BxT[:, 0])
                for old, new in zip(cache, (k_BxSxJxh, v_BxSxJxh), strict=True)
            )
        if whole:
            out = jax.nn.dot_product_attention(q_BxPxHxh, k_BxSxJxh, v_BxSxJxh, is_causal=True)
        else:
            if at_BxS is None:
                at_BxS = jnp.arange(k_BxSxJxh.shape[1])[None]
            seen = at_BxS[:, None, None, :] <= reading(positions_BxT)[:, None, :, None]
            out = jax.nn.dot_product_attention(q_BxPxHxh, k_BxSxJxh, v_BxSxJxh, mask=seen)
        out = site('head_out', out)
        return site('attention_out', self.o(out.reshape(*out.shape[:2], -1))), cache


@functools.partial(jax.checkpoint, prevent_cse=False)
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """Returns `silu(gate) * up`, computed in float32 and rounded once.

    In bfloat16 `silu` alone would round twice. A backward pass keeps the two arguments and
    computes the rest again: kept, the terms in between are a quarter of a training step's memory.
    """
    neurons = jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)
    return neurons.astype(gate.dtype)


def relp_swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """Returns `swiglu(gate, up)`, whose backward pass follows the rules of RelP.

    The gate is a linear function of its argument, `gate * s` with s = sigmoid(gate) held fixed, and
    of the product's relevance either factor gets half.
    """
    gate_, up_ = gate.astype(jnp.float32), up.astype(jnp.float32)
    half = 0.5 * (gate_ * jax.lax.stop_gradient(jax.nn.sigmoid(gate_)) * up_)
    return (half + jax.lax.stop_gradient(half)).astype(gate.dtype)


class MLP(nnx.Module):
    """SwiGLU; a neuron is one coordinate of `silu(gate(x)) * up(x)`, the input of `down`."""

    def __init__(self, config: LlamaConfig, key, dtype, std):
        c, keys = config, jax.random.split(key, 3)
        self.gate = Linear(c.hidden_size, c.intermediate_size, keys[0], dtype, std)
        self.up = Linear(c.hidden_size, c.intermediate_size, keys[1], dtype, std)
        self.down = Linear(c.intermediate_size, c.hidden_size, keys[2], dtype, std)

    def __call__(self, x_BxTxd, site, relp=False):
        neurons_BxTxF = (relp_swiglu if relp else swiglu)(self.gate(x_BxTxd), self.up(x_BxTxd))
        neurons_BxTxF = constrain(neurons_BxTxF, 'fsdp', None, 'tensor')
        return site('mlp_out', self.down(site('neurons', neurons_BxTxF)))


class Block(nnx.Module):
    """One layer: attention and MLP, each behind a norm and added to the residual stream.

    Its input has been through the site `residual` before it is called. It computes the positions
    that are `read` (see `take_positions`) from keys and values of all: the last layer of a model
    is wanted at few.
    """

    def __init__(self, config: LlamaConfig, key, dtype, std):
        keys = jax.random.split(key)
        self.input_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.attention = Attention(config, keys[0], dtype, std)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.mlp = MLP(config, keys[1], dtype, std)

    def __call__(self, x_BxTxd, positions_BxT, rotation, site, cache=None, read=None, **rules):
        y_BxTxd = self.input_norm(x_BxTxd, **rules)
        attention, cache = self.attention(
            y_BxTxd, positions_BxT, rotation, site, cache, read, **rules
        )
        x = constrain(take_positions(x_BxTxd, read) + attention, 'fsdp', None, None)
        mlp = self.mlp(self.mlp_norm(x, **rules), site, **rules)
        x = constrain(x + mlp, 'fsdp', None, None)
        return x, cache


def write_rows(old: jax.Array, new: jax.Array, starts_B: jax.Array) -> jax.Array:
    """Writes `new [B, T, ...]` into `old [B, S, ...]`, each row from its own start."""
    write = lambda row, part, at: jax.lax.dynamic_update_slice_in_dim(row, part, at, axis=0)
    return jax.vmap(write)(old, new.astype(old.dtype), starts_B)
