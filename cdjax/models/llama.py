"""The Llama 3 family with explicit intervention points.

One block is written once and scanned over stacked layers, so that compile time does not grow with
depth. Modules are Flax NNX used as plain pytrees: `jax.jit`, `jax.grad` and `jax.lax.scan` see
a model as the tree of its parameters. Matrices are stored `[in, out]`.

Letters: B batch, T positions of this call, S positions of the cache, L layers, d width, H query
heads, J key and value heads, h width of a head, F neurons a layer, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdjax.models.config import LlamaConfig
from cdjax.models.edits import SITES, Edit, apply_edit, check_edits, split_layers
from cdjax.parallel.mesh import constrain

# Up to this depth the layers are compiled one by one; above it compile time stays constant.
MAX_UNROLLED_LAYERS = 4

# What a backward pass keeps of each block: everything, matrix products only, or nothing.
REMAT_POLICIES = {
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of the positions decoded so far.

    Attributes:
        keys: `[L, B, S, J, h]`, rotated.
        values: `[L, B, S, J, h]`.
        lengths: int32 `[B]`, the positions of each row that count; later ones are overwritten.
    """

    keys: jax.Array
    values: jax.Array
    lengths: jax.Array


class Linear(nnx.Module):
    """A matrix `[in, out]` without bias."""

    def __init__(self, n_in, n_out, key, dtype, std):
        weight = jax.random.normal(key, (n_in, n_out), jnp.float32) * std
        self.weight = nnx.Param(weight.astype(dtype))

    def __call__(self, x):
        return x @ self.weight[...].astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in float32 and rounded once."""

    def __init__(self, width, eps, dtype):
        self.weight = nnx.Param(jnp.ones(width, dtype))
        self.eps = eps

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        weight = jnp.expand_dims(self.weight[...], range(x.ndim - 1))
        return (weight.astype(jnp.float32) * y).astype(x.dtype)


class Embedding(nnx.Module):
    """The token embedding `[V, d]`."""

    def __init__(self, vocab_size, width, key, dtype, std):
        weight = jax.random.normal(key, (vocab_size, width), jnp.float32) * std
        self.weight = nnx.Param(weight.astype(dtype))

    def __call__(self, tokens, dtype):
        return self.weight[...].astype(dtype)[tokens]


class Attention(nnx.Module):
    """Grouped-query attention; `head_out` is edited before the output projection."""

    def __init__(self, config: LlamaConfig, key, dtype, std):
        c, keys = config, jax.random.split(key, 4)
        self.q = Linear(c.hidden_size, c.num_heads * c.head_dim, keys[0], dtype, std)
        self.k = Linear(c.hidden_size, c.num_kv_heads * c.head_dim, keys[1], dtype, std)
        self.v = Linear(c.hidden_size, c.num_kv_heads * c.head_dim, keys[2], dtype, std)
        self.o = Linear(c.num_heads * c.head_dim, c.hidden_size, keys[3], dtype, std)
        self.head_dim = c.head_dim

    def __call__(self, x_BxTxd, positions_BxT, rotation, site, cache):
        split = lambda y: y.reshape(*y.shape[:2], -1, self.head_dim)
        q_BxTxHxh = rotate(split(self.q(x_BxTxd)), rotation)
        k_BxTxJxh = rotate(split(self.k(x_BxTxd)), rotation)
        v_BxTxJxh = split(self.v(x_BxTxd))
        if cache is None:
            out = jax.nn.dot_product_attention(q_BxTxHxh, k_BxTxJxh, v_BxTxJxh, is_causal=True)
        else:
            k_BxSxJxh, v_BxSxJxh = (
                write_rows(old, new, positions_BxT[:, 0])
                for old, new in zip(cache, (k_BxTxJxh, v_BxTxJxh), strict=True)
            )
            at_S = jnp.arange(k_BxSxJxh.shape[1])
            seen = at_S[None, None, None, :] <= positions_BxT[:, None, :, None]
            out = jax.nn.dot_product_attention(q_BxTxHxh, k_BxSxJxh, v_BxSxJxh, mask=seen)
            cache = k_BxSxJxh, v_BxSxJxh
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


class MLP(nnx.Module):
    """SwiGLU; a neuron is one coordinate of `silu(gate(x)) * up(x)`, the input of `down`."""

    def __init__(self, config: LlamaConfig, key, dtype, std):
        c, keys = config, jax.random.split(key, 3)
        self.gate = Linear(c.hidden_size, c.intermediate_size, keys[0], dtype, std)
        self.up = Linear(c.hidden_size, c.intermediate_size, keys[1], dtype, std)
        self.down = Linear(c.intermediate_size, c.hidden_size, keys[2], dtype, std)

    def __call__(self, x_BxTxd, site):
        neurons_BxTxF = swiglu(self.gate(x_BxTxd), self.up(x_BxTxd))
        neurons_BxTxF = constrain(neurons_BxTxF, 'fsdp', None, 'tensor')
        return site('mlp_out', self.down(site('neurons', neurons_BxTxF)))


class Block(nnx.Module):
    """One layer: attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: LlamaConfig, key, dtype, std):
        keys = jax.random.split(key)
        self.input_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.attention = Attention(config, keys[0], dtype, std)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.mlp = MLP(config, keys[1], dtype, std)

    def __call__(self, x_BxTxd, positions_BxT, rotation, site, cache=None):
        x = site('residual', x_BxTxd)
        attention, cache = self.attention(self.input_norm(x), positions_BxT, rotation, site, cache)
        x = constrain(x + attention, 'fsdp', None, None)
        x = constrain(x + self.mlp(self.mlp_norm(x), site), 'fsdp', None, None)
        return x, cache


class Llama(nnx.Module):
    """A Llama model whose activations can be read and edited at named sites.

    Args:
        config: the shape of the model.
        key: PRNG key of the initial weights.
        dtype: dtype of the parameters.
        init_std: standard deviation of the initial matrices, Hugging Face's `initializer_range`.
            In a narrow model it decides what is learned from few examples: at 0.02 a student 64
            wide generalises, at 1/sqrt(fan-in) it memorises.
    """

    def __init__(
        self, config: LlamaConfig, key: jax.Array, *, dtype=jnp.float32, init_std: float = 0.02
    ):
        embed_key, layers_key, head_key = jax.random.split(key, 3)
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size, embed_key, dtype, init_std)
        self.layers = jax.vmap(lambda k: Block(config, k, dtype, init_std))(
            jax.random.split(layers_key, config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, head_key, dtype, init_std)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        edits: dict[str, Edit] | None = None,
        capture: Sequence[str] = (),
        positions: tuple[int, ...] | None = None,
        logits_at: int | jax.Array | None = None,
        dtype=None,
        remat: str = 'none',
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs the model on right-padded rows.

        Args:
            tokens: int `[B, T]`; attention is causal, so padding on the right is never seen.
            edits: an affine edit for each site to be changed (see `Edit`).
            capture: sites whose activations are returned, as they are after the edit.
            positions: the positions that are captured (static; negative ones count from the end
                of the padded row), all of them where None.
            logits_at: the position whose logits are returned, one int for all rows or an int
                array `[B]`; all positions where None.
            dtype: dtype of the computation; that of the parameters where None.
            remat: key of `REMAT_POLICIES`, what a backward pass keeps of each block.

        Returns:
            `logits`, float32 `[B, T, V]` or, with `logits_at`, `[B, V]`; and `activations`, for
            each captured site `[L, B, T', ...]` in the dtype of the computation.

        Raises:
            ValueError: an unknown site, an edit that does not fit, an unknown `remat`.
        """
        starts_B = jnp.zeros(tokens.shape[0], jnp.int32)
        x_BxTxd, activations, _ = self._run_blocks(
            tokens, starts_B, None, edits or {}, tuple(capture), positions, dtype, remat
        )
        return self._logits(x_BxTxd, logits_at), activations

    def decode(
        self,
        tokens: jax.Array,
        cache: KVCache,
        *,
        edits: dict[str, Edit] | None = None,
        logits_at: int | jax.Array | None = -1,
        dtype=None,
    ) -> tuple[jax.Array, KVCache]:
        """Runs the model on the next positions of each row, behind those in the cache.

        Args:
            tokens: int `[B, T]`, the whole prompt (right-padded) or one new token a row.
            cache: see `init_cache`; at least `T` positions must be free.
            edits: as in `__call__`; the T axis of an edit is 1 or `T`.
            logits_at: position within `tokens`, as in `__call__`.
            dtype: dtype of the computation; that of the cache should be equal.

        Returns:
            Logits as in `__call__`, and the cache with `T` more positions in each row. After a
            right-padded prompt the caller sets `lengths` to the true lengths.
        """
        x_BxTxd, _, (keys, values) = self._run_blocks(
            tokens, cache.lengths, (cache.keys, cache.values), edits or {}, (), None, dtype, 'none'
        )
        lengths = cache.lengths + tokens.shape[1]
        return self._logits(x_BxTxd, logits_at), KVCache(keys, values, lengths)

    def init_cache(self, batch_size: int, length: int, dtype=None) -> KVCache:
        """Returns an empty cache for `batch_size` rows of at most `length` positions."""
        c = self.config
        shape = (c.num_layers, batch_size, length, c.num_kv_heads, c.head_dim)
        empty = jnp.zeros(shape, dtype or self.embed.weight.dtype)
        return KVCache(empty, empty, jnp.zeros(batch_size, jnp.int32))

    def _run_blocks(self, tokens, starts_B, cache, edits, capture, positions, dtype, remat):
        c, (B, T) = self.config, tokens.shape
        check_edits(edits, site_shapes(c, B, T))
        for site in capture:
            if site not in SITES:
                raise ValueError(f'capture of unknown site {site!r}; sites are {", ".join(SITES)}')
        if remat not in REMAT_POLICIES:
            raise ValueError(f'unknown remat {remat!r}; choose one of {", ".join(REMAT_POLICIES)}')

        positions_BxT = starts_B[:, None] + jnp.arange(T)[None, :]
        rotation = rope_rotation(c, positions_BxT)
        edits_of_layer, scanned_edits = split_layers(edits, c.num_layers)

        def block(x_BxTxd, layer_inputs):
            layer, layer_edits, layer_cache = layer_inputs
            layer_edits, taken = edits_of_layer(layer_edits), {}

            def site(name, value):
                value = apply_edit(value, layer_edits.get(name))
                if name in capture:
                    kept = value if positions is None else value[:, np.asarray(positions)]
                    taken[name] = kept
                return value

            x_BxTxd, layer_cache = layer(x_BxTxd, positions_BxT, rotation, site, layer_cache)
            return x_BxTxd, (taken, layer_cache)

        x_BxTxd = self.embed(tokens, dtype or self.embed.weight.dtype)
        x_BxTxd = constrain(x_BxTxd, 'fsdp', None, None)
        # A loop stores what its backward pass needs layer by layer, which costs a shallow model
        # more than its products; unrolled, a training step of two layers takes 0.7 of the time.
        # With remat, where memory counts, the loop stays: it keeps XLA from sharing what is to be
        # computed again.
        unrolled = c.num_layers <= MAX_UNROLLED_LAYERS and REMAT_POLICIES[remat] is None
        if REMAT_POLICIES[remat] is not None:
            block = jax.checkpoint(block, policy=REMAT_POLICIES[remat], prevent_cse=False)
        x_BxTxd, (activations, cache) = jax.lax.scan(
            block,
            x_BxTxd,
            (self.layers, scanned_edits, cache),
            unroll=c.num_layers if unrolled else 1,
        )
        return x_BxTxd, activations, cache

    def _logits(self, x_BxTxd, logits_at):
        if logits_at is not None:
            # One position is picked before the head, so that [B, T, V] is never made.
            at_B = jnp.broadcast_to(jnp.asarray(logits_at), x_BxTxd.shape[:1])
            at_B = jnp.where(at_B < 0, at_B + x_BxTxd.shape[1], at_B)
            x = jnp.take_along_axis(x_BxTxd, at_B[:, None, None], axis=1)[:, 0]
        else:
            x = x_BxTxd
        tied = self.config.tie_embeddings
        head_dxV = self.embed.weight[...].T if tied else self.lm_head.weight[...]
        x = self.norm(x)
        return jnp.matmul(x, head_dxV.astype(x.dtype), preferred_element_type=jnp.float32)


def site_shapes(config: LlamaConfig, batch: int, length: int) -> dict[str, tuple[int, ...]]:
    """Returns the full shape `[L, B, T, ...]` of each site."""
    c = config
    lead = (c.num_layers, batch, length)
    stream = (*lead, c.hidden_size)
    return {
        'residual': stream,
        'head_out': (*lead, c.num_heads, c.head_dim),
        'attention_out': stream,
        'neurons': (*lead, c.intermediate_size),
        'mlp_out': stream,
    }


def rope_frequencies(config: LlamaConfig) -> np.ndarray:
    """Returns the rotary frequencies, float32 `[head_dim / 2]` in radians a position.

    RoPE of Su et al. (arXiv 2104.09864) with the frequency scaling of Llama 3.1.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    frequencies = (1.0 / config.rope_theta**exponents).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    wavelengths = 2 * np.pi / frequencies
    low = scaling.original_length / scaling.low_freq_factor
    high = scaling.original_length / scaling.high_freq_factor
    smooth = (scaling.original_length / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    scaled = np.where(wavelengths > low, frequencies / scaling.factor, between)
    return np.where(wavelengths < high, frequencies, scaled).astype(np.float32)


def rope_rotation(config: LlamaConfig, positions_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines, float32 `[B, T, 1, head_dim / 2]`."""
    angles = positions_BxT[..., None].astype(jnp.float32) * rope_frequencies(config)[None, None, :]
    return jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the halves of each head, `[B, T, heads, h]`, in float32 (Hugging Face's layout)."""
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def write_rows(old: jax.Array, new: jax.Array, starts_B: jax.Array) -> jax.Array:
    """Writes `new [B, T, ...]` into `old [B, S, ...]`, each row from its own start."""
    write = lambda row, part, at: jax.lax.dynamic_update_slice_in_dim(row, part, at, axis=0)
    return jax.vmap(write)(old, new.astype(old.dtype), starts_B)
