"""Rotary positions of Su et al. (arXiv 2104.09864), with the frequency scaling of Llama 3.1."""

import jax
import jax.numpy as jnp
import numpy as np

from cdjax.models.config import LlamaConfig


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
