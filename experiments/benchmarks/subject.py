"""The models and problems that the suites of speed run on: shapes of real ones, random weights."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.data import Dataset, build_arithmetic_tokenizer
from cdjax.models import Llama, LlamaConfig, save_huggingface

SHAPES = {
    # SmolLM2-135M.
    'smollm2': LlamaConfig(49152, 576, 1536, 30, 9, 3, 64, rope_theta=1e5, tie_embeddings=True),
    'llama32_1b': LlamaConfig.preset('llama32_1b'),
    'small': LlamaConfig(4096, 256, 1024, 4, 8, 4, 32, tie_embeddings=True),
}

DTYPE = 'float32'  # of weights and computation
LENGTH = 8  # tokens of a prompt


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model, prompts of one length and a neuron mask for each of them.

    Attributes:
        model: random weights.
        tokens: int `[B, T]`.
        masks: bool `[L, B, 1, F]`, half of the neurons.
        fill: float32 `[L, T, F]`.
        answers: int `[2, B]`, the tokens of a logit difference.
        folder: the model as a Hugging Face checkpoint.
    """

    model: Llama
    tokens: np.ndarray
    masks: np.ndarray
    fill: np.ndarray
    answers: np.ndarray
    folder: Path

    @property
    def dtype(self) -> jnp.dtype:
        """That of the weights and of the computation."""
        return self.model.embed.weight[...].dtype

    @property
    def flops(self) -> float:
        """Products that logits of the last position need, 2 a parameter and token.

        Of the last layer that is keys and values everywhere, and the rest at one position.
        """
        c = self.model.config
        key_value = 2 * c.num_kv_heads * c.head_dim * c.hidden_size
        rest = (2 * c.num_heads * c.head_dim + 3 * c.intermediate_size) * c.hidden_size
        everywhere = c.num_layers * key_value + (c.num_layers - 1) * rest
        at_the_end = rest + c.hidden_size * c.vocab_size
        return 2.0 * (self.tokens.size * everywhere + len(self.tokens) * at_the_end)


def make_subject(shape: str, workdir: Path, *, rows: int, dtype: str = DTYPE) -> Subject:
    """Returns the subject of a shape, its checkpoint written into `workdir`."""
    c = SHAPES[shape]
    model = random_model(c, dtype=dtype)
    rng = np.random.default_rng(0)
    folder = workdir / f'{shape}_{dtype}'
    if not folder.exists():
        save_huggingface(model, folder)
        build_arithmetic_tokenizer(9).save_pretrained(folder)  # some peers want one
    return Subject(
        model,
        rng.integers(0, c.vocab_size, (rows, LENGTH)),
        rng.random((c.num_layers, rows, 1, c.intermediate_size)) < 0.5,
        rng.normal(size=(c.num_layers, LENGTH, c.intermediate_size)).astype(np.float32) * 0.01,
        rng.integers(0, c.vocab_size, (2, rows)),
        folder,
    )


def random_model(config: LlamaConfig, *, seed: int = 0, dtype: str = DTYPE) -> Llama:
    """Returns a model of random weights; what makes it is compiled once for a shape."""
    return _random_model(config, dtype, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _random_model(config, dtype, key):
    return Llama(config, key, dtype=jnp.dtype(dtype))


def check_equal(ours: np.ndarray, theirs: np.ndarray, dtype: jnp.dtype) -> None:
    """Raises AssertionError where a peer computes something else: it is not compared with.

    Args:
        ours: what we return.
        theirs: what the peer does.
        dtype: of the computation; in 16 bits the two round differently in each layer.
    """
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    if dtype == jnp.float32:
        np.testing.assert_allclose(theirs, ours, atol=1e-3, rtol=1e-2)
        return
    apart = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    assert apart < 0.05, f'answers are {apart:.3f} apart'


def make_dataset(tokens: np.ndarray, answers: np.ndarray) -> Dataset:
    """Returns prompts `[N, T]` of one length and answers `[2, N]` as a data set without texts."""
    rows = np.arange(len(tokens), dtype=np.int32)
    lengths = np.full(len(tokens), tokens.shape[1], np.int32)
    texts = np.full(len(tokens), '', object)
    return Dataset(tokens, lengths, answers[0], tokens, answers[1], rows, texts, {}, {}, {})
