"""Interchange: what a model answers where a circuit takes its values from another problem.

Two circuits play the same part where patching either from the same problem changes the answer in
the same way (Geiger et al. 2021, arXiv 2106.02997); a student is trained to that (interchange
intervention training, Geiger et al. 2022, arXiv 2112.00826):
`KL(T(x_i; C_k ← x_j) ‖ S(x_i; P_k ← x_j))` for problems i of class k and sources j, C_k and P_k the
paired circuits. Outputs alone cannot tell where a model computes; patched outputs can.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdjax.circuits.ablation import keep_only
from cdjax.data import Dataset
from cdjax.distillation.alignment import Alignment
from cdjax.errors import InputError
from cdjax.inference.rows import map_rows
from cdjax.losses import TopKLogits
from cdjax.models import Capture, Llama
from cdjax.parallel.mesh import one_device, split_neurons

SOURCES = 4  # of each problem


@dataclasses.dataclass(frozen=True, eq=False)
class Interchange:
    """What a teacher answers to N problems where its circuits are patched.

    Attributes:
        sources: int `[N, R]`, the problems whose activations are put in.
        logits: float32 `[N, R, V]`, or the top k of them; in memory, or `Draws` on disk.
    """

    sources: np.ndarray
    logits: Any

    def at(self, index: np.ndarray, step: int, tokens: np.ndarray) -> dict[str, Any]:
        """Returns what a batch holds of it: one source of each problem, another at each step.

        Args:
            index: int `[B]`, the problems.
            step: the number of the step.
            tokens: int `[N, T]`, of all problems.
        """
        draw = (step + index) % self.sources.shape[1]
        return {
            'source_tokens': tokens[self.sources[index, draw]],
            'patched_logits': jax.tree.map(lambda x: x[index, draw], self.logits),
        }

    def of(self, rows: np.ndarray) -> 'Interchange':
        """Returns what is answered to some of the problems, int `[n]`, with all sources, read."""
        draws = [np.full(len(rows), r) for r in range(self.sources.shape[1])]
        read = lambda x: np.stack([x[rows, draw] for draw in draws], axis=1)
        return Interchange(self.sources[rows], jax.tree.map(read, self.logits))


def patch_teacher(
    teacher: Llama,
    dataset: Dataset,
    alignment: Alignment,
    *,
    seed: int,
    top_k: tuple[int, float] | None = None,
    sources: int = SOURCES,
    **passes,
) -> Interchange:
    """Answers every problem with the circuit of its class patched from each of its sources.

    Args:
        teacher: the teacher.
        dataset: N problems, those of the alignment's classes.
        alignment: whose teacher's masks are patched, in the paired layers, at its positions (all of
            them where it has none).
        seed: of the sources.
        top_k: k and a temperature, where the logits are to be `TopKLogits`.
        sources: R.
        **passes: `mesh` and `tokens_per_pass`.

    Raises:
        InputError: an alignment without circuits, answers of several tokens, or problems that have
            no other of their length.
    """
    drawn, said = patches(
        teacher, dataset, alignment, seed=seed, top_k=top_k, sources=sources, **passes
    )
    answers = [said(r) for r in range(sources)]
    return Interchange(drawn, jax.tree.map(lambda *draws: np.stack(draws, axis=1), *answers))


def patches(
    teacher: Llama,
    dataset: Dataset,
    alignment: Alignment,
    *,
    seed: int,
    top_k: tuple[int, float] | None,
    sources: int,
    mesh: Mesh | None = None,
    **passes,
) -> tuple[np.ndarray, Callable[[int], Any]]:
    """Returns the sources `[N, R]`, and what asks the teacher for its answers with one of each, r.

    Arguments and errors are those of `patch_teacher`; answers are float32 `[N, V]`, or the top k.
    """
    check_interchange(alignment)
    check_single_answers(dataset.answer_tokens)
    mesh = one_device() if mesh is None else mesh
    drawn = draw_sources(dataset.prompt_sizes, alignment.classes, sources, seed=seed)
    masks = in_layers(alignment.teacher_masks, alignment.teacher_layers)
    constants = {'model': teacher, 'masks': split_neurons(masks, mesh)}
    rows = {'tokens': dataset.tokens, 'lengths': dataset.lengths}
    rows['classes'] = np.asarray(alignment.classes, np.int32)
    answer = patched_rows(alignment.site, alignment.positions, top_k)

    def said(r: int) -> Any:
        sources = {'source_tokens': dataset.tokens[drawn[:, r]]}
        return map_rows(answer, constants, {**rows, **sources}, mesh=mesh, **passes)

    return drawn, said


def check_interchange(alignment: Alignment) -> None:
    """Raises InputError where there are no circuits to be patched, or what they are read by."""
    if alignment.teacher_masks is None or alignment.student_masks is None:
        raise InputError(
            'similarity=interchange patches circuits of both models: choose an arm of circuits, '
            'such as interchange'
        )


def check_single_answers(answer_tokens: int, arms: Iterable[str] = ()) -> None:
    """Raises InputError where answers have several tokens.

    A patch changes the answer from its first token on. What follows would be read behind the tokens
    of the right answer, which the patched model no longer gives.

    Args:
        answer_tokens: of the longest answer.
        arms: keys of those that patch, for the message.
    """
    if answer_tokens > 1:
        named = ', '.join(arms) or 'similarity=interchange'
        raise InputError(
            f'{named} compares what a patch makes of an answer of one token, and some here have up '
            f'to {answer_tokens}: leave it out, or set answer_tokens=1 and leave '
            'answer_end out'
        )


def draw_sources(lengths: np.ndarray, classes: np.ndarray, sources: int, *, seed: int):
    """Returns other problems of the same length, int `[N, R]`: by turns of one's class, and of any.

    Args:
        lengths: int `[N]`, tokens of each prompt.
        classes: int `[N]`.
        sources: R.
        seed: of the draw.

    Raises:
        InputError: a problem that has no other of its length.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(lengths), sources), np.int64)
    keys = np.stack([lengths, classes], axis=1)
    for r in range(sources):
        for key in np.unique(keys if r % 2 == 0 else keys[:, :1], axis=0):
            rows = np.flatnonzero((keys[:, : len(key)] == key).all(axis=1))
            others = rows if len(rows) > 1 else np.flatnonzero(lengths == key[0])
            if len(others) < 2:
                raise InputError(
                    f'no other problem has {key[0]} tokens: interchange puts in the activations of '
                    'another one of the same length'
                )
            # Not oneself: a step on from one's own place.
            steps = rng.integers(1, len(others), len(rows))
            places = np.searchsorted(others, rows)
            drawn[rows, r] = others[(places + steps) % len(others)]
    return drawn


def in_layers(masks: np.ndarray, layers: tuple[int, ...]) -> np.ndarray:
    """Returns masks `[K, L, U]` as float32, empty in all but some layers."""
    kept = np.zeros(masks.shape, np.float32)
    chosen = list(set(layers))
    kept[:, chosen] = masks[:, chosen]
    return kept


def patched_logits(
    model: Llama,
    tokens: jax.Array,
    lengths: jax.Array,
    source_tokens: jax.Array,
    masks_BxLxU: jax.Array,
    *,
    site: str = 'neurons',
    positions: tuple[int, ...] | None = None,
    **options,
) -> jax.Array:
    """Returns the logits at the answer position with some units as they are on another problem.

    Args:
        model: the model.
        tokens: int `[B, T]`, right-padded.
        lengths: int `[B]`.
        source_tokens: int `[B, T]`, the problems whose activations are put in.
        masks_BxLxU: 1 for the units that are put in, of each row.
        site: whose units they are.
        positions: where along the prompt; everywhere if None.
        **options: `dtype` and `remat` of the model's calls.
    """
    _, taken = model(source_tokens, capture=(Capture(site),), logits_at=(), **options)
    edit = keep_only(1 - masks_BxLxU, taken[site], site, positions)
    logits, _ = model(tokens, edits={site: edit}, logits_at=lengths - 1, **options)
    return logits


def student_patched(params: Llama, batch, alignment: Alignment, **options) -> jax.Array:
    """Returns the logits of the student `[B, V]` with the circuit of each row's class patched.

    Args:
        params: the student.
        batch: as `Interchange.at` and `distill` make it.
        alignment: one that was `placed`.
        **options: `dtype` and `remat` of the model's calls.
    """
    own_BxPxU = alignment.student_masks[batch['classes']]
    layers = params.config.num_layers
    masks = jnp.zeros((len(own_BxPxU), layers, own_BxPxU.shape[-1]), own_BxPxU.dtype)
    masks = masks.at[:, np.asarray(alignment.student_layers)].max(own_BxPxU)
    return patched_logits(
        params,
        batch['tokens'],
        batch['lengths'],
        batch['source_tokens'],
        masks,
        site=alignment.site,
        positions=alignment.positions,
        **options,
    )


@functools.cache
def patched_rows(site: str, positions: tuple[int, ...] | None, top_k: tuple[int, float] | None):
    """Returns the function that `map_rows` compiles, one and the same for equal arguments.

    Its constants are the `model` and the `masks`, float `[K, L, U]`; its rows hold `tokens`,
    `lengths`, `source_tokens` and `classes`; what it returns is `patched_logits`, or the top k.

    Args:
        site: as in `patched_logits`.
        positions: likewise.
        top_k: as in `patch_teacher`.
    """

    def answer_rows(constants, rows):
        logits = patched_logits(
            constants['model'],
            *(rows[name] for name in ('tokens', 'lengths', 'source_tokens')),
            constants['masks'][rows['classes']],
            site=site,
            positions=positions,
        )
        if top_k is None:
            return logits
        k, temperature = top_k
        return TopKLogits.from_logits(logits, k, temperature=temperature)

    return answer_rows


def predict_patched(
    model: Llama,
    dataset: Dataset,
    masks: np.ndarray,
    classes: np.ndarray,
    sources: np.ndarray,
    *,
    mesh: Mesh | None = None,
    **passes,
) -> np.ndarray:
    """Returns the most likely token of each problem with the units of its class patched.

    Args:
        model: the model.
        dataset: N problems.
        masks: `[K, L, U]` of neurons, 1 for those that are patched.
        classes: int `[N]`.
        sources: int `[N, R]`, the problems whose activations are put in.
        mesh: the mesh; one device if None.
        **passes: `tokens_per_pass`.

    Returns:
        int32 `[N, R]`.
    """
    mesh = one_device() if mesh is None else mesh
    constants = {'model': model, 'masks': split_neurons(np.asarray(masks, np.float32), mesh)}
    rows = {'tokens': dataset.tokens, 'lengths': dataset.lengths}
    rows['classes'] = np.asarray(classes, np.int32)
    said = [
        map_rows(
            _patched_tokens,
            constants,
            {**rows, 'source_tokens': dataset.tokens[sources[:, r]]},
            mesh=mesh,
            **passes,
        )
        for r in range(sources.shape[1])
    ]
    return np.stack(said, axis=1)


def _patched_tokens(constants, rows):
    logits = patched_rows('neurons', None, None)(constants, rows)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
