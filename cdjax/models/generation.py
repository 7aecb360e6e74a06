"""Greedy generation with a key-value cache, under edits if asked."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.errors import InputError
from cdjax.models.edits import Edit, check_edits
from cdjax.models.llama import KVCache, Llama


def generate(
    model: Llama,
    tokens: jax.Array,
    lengths: jax.Array,
    *,
    max_new_tokens: int,
    stop_tokens: Sequence[int] = (),
    edits: dict[str, Edit] | None = None,
    dtype=None,
) -> jax.Array:
    """Continues right-padded prompts with the most probable token, step by step.

    Compiled once for each shape of the prompts and of the edits. Stops early when every row has
    come to a stop token.

    Args:
        model: the model.
        tokens: int `[B, T]`, prompts padded on the right.
        lengths: int `[B]`, tokens of each prompt, at least 1.
        max_new_tokens: N, tokens to generate.
        stop_tokens: ids that end an answer.
        edits: edits in force at every position and step; their T axis is 1.
        dtype: dtype of the computation; that of the parameters where None.

    Returns:
        int32 `[B, N]`: the new tokens, with the stop token of a row repeated to its end.

    Raises:
        InputError: `max_new_tokens` below 1, or an edit that has a T axis or positions.
    """
    if max_new_tokens < 1:
        raise InputError(f'max_new_tokens={max_new_tokens} must be at least 1')
    edits = edits or {}
    for site, edit in edits.items():
        if any(step.positions is not None for step in edit.steps()):
            raise InputError(
                f'the edit at {site!r} is confined to some positions; in generation an edit is in '
                'force at every position'
            )
    # A step has one position, so that is what an edit must broadcast to.
    check_edits(edits, model.config, len(tokens), 1)
    tokens, lengths = jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32)
    return _generate(model, tokens, lengths, edits, tuple(stop_tokens), max_new_tokens, dtype)


@functools.partial(jax.jit, static_argnames=('stop_tokens', 'max_new_tokens', 'dtype'))
def _generate(model, tokens_BxT, lengths_B, edits, stop_tokens, max_new_tokens, dtype):
    B, T = tokens_BxT.shape
    stops = jnp.asarray(stop_tokens, jnp.int32)
    ends = lambda token_B: (token_B[:, None] == stops[None, :]).any(-1)

    cache = model.init_cache(B, T + max_new_tokens, dtype)
    logits, cache = model.decode(
        tokens_BxT, cache, edits=edits, logits_at=lengths_B - 1, dtype=dtype
    )
    # The padding of a row lies behind its length, where the new tokens overwrite it.
    cache = KVCache(cache.keys, cache.values, lengths_B)
    token_B = jnp.argmax(logits, -1).astype(jnp.int32)
    answer_BxN = jnp.zeros((B, max_new_tokens), jnp.int32)

    def unfinished(carry):
        step, _, _, done_B, _ = carry
        return (step < max_new_tokens) & ~done_B.all()

    def extend(carry):
        step, token_B, cache, done_B, answer_BxN = carry
        logits, cache = model.decode(token_B[:, None], cache, edits=edits, dtype=dtype)
        token_B = jnp.where(done_B, token_B, jnp.argmax(logits, -1).astype(jnp.int32))
        answer_BxN = answer_BxN.at[:, step].set(token_B)
        return step + 1, token_B, cache, done_B | ends(token_B), answer_BxN

    start = (1, token_B, cache, ends(token_B), answer_BxN.at[:, 0].set(token_B))
    step, token_B, _, _, answer_BxN = jax.lax.while_loop(unfinished, extend, start)
    return jnp.where(jnp.arange(max_new_tokens)[None, :] < step, answer_BxN, token_B[:, None])


def generate_text(
    model: Llama,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    edits: dict[str, Edit] | None = None,
    dtype=None,
) -> list[str]:
    """Answers prompts greedily, to the tokenizer's end of text.

    Args:
        model: the model.
        tokenizer: a transformers tokenizer; it adds its own special tokens to the prompts.
        prompts: B texts.
        max_new_tokens: longest answer in tokens.
        edits: as in `generate`.
        dtype: as in `generate`.

    Returns:
        The new text of each prompt, without special tokens.
    """
    rows = [tokenizer(prompt)['input_ids'] for prompt in prompts]
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    stop = tokenizer.eos_token_id
    answers = generate(
        model,
        tokens,
        lengths,
        max_new_tokens=max_new_tokens,
        stop_tokens=() if stop is None else (stop,),
        edits=edits,
        dtype=dtype,
    )
    return tokenizer.batch_decode(np.asarray(answers), skip_special_tokens=True)
