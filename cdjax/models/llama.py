"""The Llama 3 family with explicit intervention points.

One block is written once and scanned over stacked layers, so that compile time does not grow with
depth. Modules are Flax NNX used as plain pytrees: `jax.jit`, `jax.grad` and `jax.lax.scan` see
a model as the tree of its parameters. Matrices are stored `[in, out]`.

Letters: B batch, T positions of this call, S positions of the cache, L layers, d width, J key and
value heads, h width of a head, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cdjax.data.token_rows import TokenRows
from cdjax.errors import InputError
from cdjax.models.blocks import Block, Embedding, Linear, RMSNorm
from cdjax.models.captures import Capture, blocks_needed, check_captures, positions_read
from cdjax.models.config import LlamaConfig
from cdjax.models.edits import Edit, apply_edit, check_edits, edit_at, split_layers
from cdjax.models.layers import run_loop, run_unrolled
from cdjax.models.positions import Positions, take_positions
from cdjax.models.prefix import Prefix, row_positions
from cdjax.models.rope import rope_rotation
from cdjax.models.sites import RESIDUAL
from cdjax.parallel.mesh import constrain
from cdjax.precision import exact_products

# Up to this depth the layers are compiled one by one; above it compile time stays constant.
MAX_UNROLLED_LAYERS = 4

# Deviation of a new model's matrices, where nothing else is asked for.
INIT_STD = 0.02

# What a backward pass keeps of each block: everything, matrix products only, or nothing.
REMAT_POLICIES = {
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}

# What a backward pass computes: gradients; or the coefficients of RelP (arXiv 2508.21258), by which
# an activation times its coefficient is its relevance: norms and attention patterns are held fixed,
# SiLU is the linear function through its value, and the factors of gate times up get half each.
# Relevance is conserved then: over all coordinates of the residual stream it sums to the logit.
BACKWARDS = ('gradient', 'relp')


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


class Llama(nnx.Module):
    """A Llama model whose activations can be read and edited at named sites.

    Args:
        config: the shape of the model.
        key: PRNG key of the initial weights.
        dtype: dtype of the parameters.
        init_std: standard deviation of the initial matrices, Hugging Face's `initializer_range`.
            In a narrow model it decides what is learned from few examples: at 0.02 a student 64
            wide generalises, at 1/sqrt(fan-in) it memorises.

    A family with other layers is a subclass with a `block` of its own, made and called like
    `cdjax.models.blocks.Block`.
    """

    block = Block

    @property
    def family(self) -> str:
        """What the model is told by: its class, and its block where that is not Llama's."""
        block = type(self.layers)
        own = '' if block is Block else f' of {block.__name__}'
        return f'{type(self).__name__}{own}'

    def __init__(
        self, config: LlamaConfig, key: jax.Array, *, dtype=jnp.float32, init_std: float = INIT_STD
    ):
        embed_key, layers_key, head_key = jax.random.split(key, 3)
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size, embed_key, dtype, init_std)
        self.layers = jax.vmap(lambda k: self.block(config, k, dtype, init_std))(
            jax.random.split(layers_key, config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, head_key, dtype, init_std)

    def __call__(
        self,
        tokens: jax.Array | TokenRows,
        *,
        edits: dict[str, Edit] | None = None,
        capture: Sequence[str | Capture] = (),
        positions: Positions | None = None,
        logits_at: int | jax.Array | tuple[()] | None = None,
        dtype=None,
        remat: str = 'none',
        backward: str = 'gradient',
    ) -> tuple[jax.Array | None, dict[str, jax.Array]]:
        """Runs the model on rows of tokens.

        Args:
            tokens: int `[B, T]`; attention is causal, so padding on the right is never seen. Or
                `TokenRows`, padded on the left too or behind a prefix, which is read once for all
                rows: T is that of the rows alone, and so are edits and captures.
            edits: an affine edit for each site to be changed (see `Edit`).
            capture: what activations are returned, as they are after the edit: a `Capture`, or a
                site for all of its layers.
            positions: the positions captured at the sites that `capture` gives by name alone, as
                in `Capture`; all of them where None.
            logits_at: the position whose logits are returned, one int for all rows or an int
                array `[B]`, or several, `[B, P]`; all positions where None. With `()` there are no
                logits, and the model stops behind what is captured: to read the embeddings no
                block runs.
            dtype: dtype of the computation; that of the parameters where None. Products of float32
                are float32 on every accelerator (`cdjax.precision`).
            remat: key of `REMAT_POLICIES`, what a backward pass keeps of each block.
            backward: one of `BACKWARDS`, what it computes; what is returned here is the same.

        Returns:
            `logits`, float32 `[B, T, V]`, with `logits_at` `[B, V]` or `[B, P, V]`, or None; and
            `activations`, for each captured site `[L', B, T', ...]` in the computation's dtype.

        Raises:
            InputError: an unknown site, an edit that does not fit, layers or positions that are
                not there, an unknown `remat` or `backward`.
        """
        captures = check_captures(capture, positions, self.config, *tokens.shape)
        if backward not in BACKWARDS:
            raise InputError(f'unknown backward {backward!r}; choose one of {", ".join(BACKWARDS)}')
        rules = {'relp': True} if backward == 'relp' else {}
        dtype = dtype or self.embed.weight.dtype
        behind = None
        if isinstance(tokens, TokenRows):
            behind = self.read_prefix(tokens.prefix, dtype) if tokens.read is None else tokens.read
            positions_BxT = row_positions(tokens.starts, tokens.shape[1], len(tokens.prefix))
            tokens = tokens.tokens
        else:
            positions_BxT = _positions_from(jnp.zeros(len(tokens), jnp.int32), tokens)
        with exact_products(dtype):
            logits, activations, _ = self._run_blocks(
                tokens, positions_BxT, behind, edits or {}, captures, logits_at, dtype, remat, rules
            )
        return logits, activations

    def read_prefix(self, tokens: tuple[int, ...], dtype=None) -> Prefix:
        """Returns keys and values of tokens that stand in front of every row; there may be none."""
        dtype = dtype or self.embed.weight.dtype
        cache = self.init_cache(1, len(tokens), dtype)
        if tokens:
            at_1xP = jnp.asarray([tokens], jnp.int32)
            _, cache = self.decode(at_1xP, cache, dtype=dtype)
        return Prefix(cache.keys, cache.values)

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
            edits: as in `__call__`, over the positions of this call: one that is to hold for
                the whole of a text has a T axis of 1.
            logits_at: position within `tokens`, as in `__call__`.
            dtype: dtype of the computation; that of the cache should be equal.

        Returns:
            Logits as in `__call__`, and the cache with `T` more positions in each row. After a
            right-padded prompt the caller sets `lengths` to the true lengths.
        """
        cached = cache.keys, cache.values
        dtype = dtype or self.embed.weight.dtype
        with exact_products(dtype):
            at_BxT = _positions_from(cache.lengths, tokens)
            logits, _, (keys, values) = self._run_blocks(
                tokens, at_BxT, cached, edits or {}, {}, logits_at, dtype, 'none', {}
            )
        return logits, KVCache(keys, values, cache.lengths + tokens.shape[1])

    def init_cache(self, batch_size: int, length: int, dtype=None) -> KVCache:
        """Returns an empty cache for `batch_size` rows of at most `length` positions."""
        c = self.config
        shape = (c.num_layers, batch_size, length, c.num_kv_heads, c.head_dim)
        empty = jnp.zeros(shape, dtype or self.embed.weight.dtype)
        return KVCache(empty, empty, jnp.zeros(batch_size, jnp.int32))

    def _run_blocks(
        self, tokens, positions_BxT, cache, edits, captures, logits_at, dtype, remat, rules
    ):
        """Runs the blocks that are needed; returns logits, activations and the cache."""
        c, (B, T) = self.config, tokens.shape
        edits = check_edits(edits, c, B, T)
        if remat not in REMAT_POLICIES:
            raise InputError(f'unknown remat {remat!r}; choose one of {", ".join(REMAT_POLICIES)}')

        silent = isinstance(logits_at, tuple)
        logits_at = _as_positions(logits_at, B)
        depth = blocks_needed(captures) if silent else c.num_layers
        # A loop stores what its backward pass needs layer by layer, which costs a shallow model
        # more than its products; unrolled, a training step of two layers takes 0.7 of the time.
        # With remat, where memory counts, the loop stays: it keeps XLA from sharing what is to be
        # computed again.
        unrolled = depth == c.num_layers <= MAX_UNROLLED_LAYERS and REMAT_POLICIES[remat] is None
        read = positions_read(captures, logits_at, depth - 1, T) if unrolled else None

        rotation = rope_rotation(c, positions_BxT)
        edits_of_layer, scanned_edits = split_layers(edits, c.num_layers)
        reached = {RESIDUAL.key}

        def tap(layer_edits, taken):
            def site(name, value):
                edit, capture = layer_edits.get(name), captures.get(name)
                whole = value.shape[1] == T  # or as much of it as is read
                value = apply_edit(value, edit if whole else edit_at(edit, read))
                reached.add(name)
                if capture is not None and capture.layers:
                    taken[name] = take_positions(value, capture.positions) if whole else value
                return value

            return site

        def block(x_BxTxd, layer_inputs, read=None):
            layer, layer_edits, layer_cache = layer_inputs
            taken = {}
            site = tap(edits_of_layer(layer_edits), taken)
            x_BxTxd = site(RESIDUAL.key, x_BxTxd)
            x_BxTxd, layer_cache = layer(
                x_BxTxd, positions_BxT, rotation, site, layer_cache, read, **rules
            )
            return x_BxTxd, taken, layer_cache

        if REMAT_POLICIES[remat] is not None:
            block = jax.checkpoint(block, policy=REMAT_POLICIES[remat], prevent_cse=False)

        def last_residual(x_BxTxd):
            """The input of the first block that does not run: it may be wanted."""
            taken = {}
            site = tap(edits_of_layer([leaf[depth] for leaf in scanned_edits]), taken)
            site(RESIDUAL.key, x_BxTxd)
            return taken

        x_BxTxd = self.embed(tokens, dtype)
        x_BxTxd = constrain(x_BxTxd, 'fsdp', None, None)
        layer_inputs = self.layers, scanned_edits, cache
        if unrolled:
            x_BxTxd, activations, cache = run_unrolled(
                block, x_BxTxd, layer_inputs, captures, c, read
            )
        else:
            x_BxTxd, activations, cache = run_loop(
                block, x_BxTxd, layer_inputs, captures, c, depth, last_residual
            )
        unreached = [site for site in (*edits, *captures) if site not in reached]
        if depth and unreached:
            raise InputError(
                f'the blocks of {type(self).__name__} have no site {unreached[0]!r}: they pass '
                f'{", ".join(sorted(reached))} through `site`'
            )
        if silent:
            return None, activations, cache
        # Picked before the head, so that [B, T, V] is never made.
        x_BxPxd = take_positions(x_BxTxd, logits_at) if read is None else x_BxTxd
        logits = self._logits(x_BxPxd, rules)
        several = logits_at is None or getattr(logits_at, 'ndim', 1) == 2
        return logits if several else logits[:, 0], activations, cache

    def _logits(self, x_BxPxd, rules):
        tied = self.config.tie_embeddings
        head_dxV = self.embed.weight[...].T if tied else self.lm_head.weight[...]
        x_BxPxd = self.norm(x_BxPxd, **rules)
        return jnp.matmul(
            x_BxPxd, head_dxV.astype(x_BxPxd.dtype), preferred_element_type=jnp.float32
        )


def _positions_from(starts_B, tokens_BxT):
    return starts_B[:, None] + jnp.arange(tokens_BxT.shape[1])[None, :]


def _as_positions(logits_at, batch):
    """Returns the positions of the logits, as in `Capture`: `()` for none, None for all."""
    if logits_at is None or isinstance(logits_at, tuple):
        return logits_at
    if isinstance(logits_at, int):
        return (logits_at,)
    return logits_at if jnp.ndim(logits_at) else jnp.broadcast_to(logits_at, batch)
