"""The shape of a Llama model: one frozen dataclass, and the presets of the Llama 3 family."""

import dataclasses
from typing import Any

from cdjax.errors import InputError
from cdjax.models import huggingface_config


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency scaling of rotary embeddings (`rope_type: llama3`).

    Wavelengths beyond `original_length / low_freq_factor` are stretched by `factor`, those below
    `original_length / high_freq_factor` are left alone, and those between are interpolated.
    """

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


# Sizes that no model exceeds: the names of so many layers alone would fill the memory.
LARGEST = {
    'vocab_size': 2**31 - 1,
    'hidden_size': 2**31 - 1,
    'intermediate_size': 2**31 - 1,
    'num_layers': 2**16 - 1,
    'num_heads': 2**31 - 1,
    'num_kv_heads': 2**31 - 1,
    'head_dim': 2**31 - 1,
    'max_length': 2**31 - 1,
}


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Everything that determines the computation of a Llama model, and nothing else.

    Attributes:
        vocab_size: rows of the embedding (V).
        hidden_size: width of the residual stream (d).
        intermediate_size: FFN neurons a layer (F).
        num_layers: blocks (L).
        num_heads: query heads (H).
        num_kv_heads: key and value heads; divides `num_heads`.
        head_dim: width of a head.
        rope_theta: base of the rotary frequencies.
        rope_scaling: Llama 3.1 and 3.2 frequency scaling, or None.
        norm_eps: epsilon of RMSNorm.
        tie_embeddings: whether the head is the transposed embedding.
        max_length: longest sequence the model was trained for (positions).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 5e5
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    max_length: int = 8192

    def __post_init__(self):
        for field, largest in LARGEST.items():
            if not 1 <= getattr(self, field) <= largest:
                raise InputError(
                    f'{field}={getattr(self, field)} must be at least 1, and at most {largest}'
                )
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f'num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}'
            )
        if self.head_dim % 2:
            raise InputError(f'head_dim={self.head_dim} must be even: RoPE rotates pairs')

    @property
    def num_neurons(self) -> int:
        """All FFN neurons of the model, D = L * F."""
        return self.num_layers * self.intermediate_size

    @classmethod
    def from_huggingface(cls, fields: dict[str, Any]) -> 'LlamaConfig':
        """Returns the config that a Hugging Face `config.json` describes, in its 4.x or 5.x form.

        Raises:
            InputError: a required field is absent (theta too), or a field asks for a computation
                that `Llama` does not do; all such fields are named.
        """
        values = huggingface_config.read_fields(fields)
        if values['rope_scaling'] is not None:
            values['rope_scaling'] = RopeScaling(**values['rope_scaling'])
        return cls(**values)

    def to_huggingface(self, dtype: str = 'float32') -> dict[str, Any]:
        """Returns the content of a `config.json` that transformers 4.x and 5.x read alike.

        Args:
            dtype: name of the dtype of the stored weights.
        """
        return huggingface_config.write_fields(dataclasses.asdict(self), dtype)

    @classmethod
    def preset(cls, name: str) -> 'LlamaConfig':
        """Returns the preset of a name in `PRESETS`, such as 'llama32_1b'."""
        return getattr(cls, name)()

    @classmethod
    def llama3_8b(cls) -> 'LlamaConfig':
        """Llama 3 8B: 8.030 B parameters, no RoPE scaling."""
        return cls(128256, 4096, 14336, 32, 32, 8, 128)

    @classmethod
    def llama31_8b(cls) -> 'LlamaConfig':
        """Llama 3.1 8B: Llama 3 8B with RoPE scaled by 8."""
        return dataclasses.replace(
            cls.llama3_8b(), rope_scaling=RopeScaling(8.0), max_length=131072
        )

    @classmethod
    def llama32_1b(cls) -> 'LlamaConfig':
        """Llama 3.2 1B: 1.236 B parameters, tied embeddings, RoPE scaled by 32."""
        return cls(
            *(128256, 2048, 8192, 16, 32, 8, 64),
            rope_scaling=RopeScaling(32.0),
            tie_embeddings=True,
            max_length=131072,
        )

    @classmethod
    def llama32_3b(cls) -> 'LlamaConfig':
        """Llama 3.2 3B: 3.213 B parameters, tied embeddings, RoPE scaled by 32."""
        return cls(
            *(128256, 3072, 8192, 28, 24, 8, 128),
            rope_scaling=RopeScaling(32.0),
            tie_embeddings=True,
            max_length=131072,
        )

    @classmethod
    def llama3_70b(cls) -> 'LlamaConfig':
        """Llama 3 70B: 70.55 B parameters, no RoPE scaling."""
        return cls(128256, 8192, 28672, 80, 64, 8, 128)

    def half_width(self) -> 'LlamaConfig':
        """Returns the shape of a student of half the width, as deep as its teacher.

        Heads keep their width and are halved in number, as the residual stream is.

        Raises:
            InputError: a width that has no half.
        """
        if self.hidden_size % 2 or self.num_heads % 2 or self.intermediate_size % 2:
            raise InputError(
                f'a teacher of width {self.hidden_size} with {self.num_heads} heads and '
                f'{self.intermediate_size} neurons has no half: name a student checkpoint, or the '
                'config.json of a shape'
            )
        return dataclasses.replace(
            self,
            hidden_size=self.hidden_size // 2,
            intermediate_size=self.intermediate_size // 2,
            num_heads=self.num_heads // 2,
            num_kv_heads=max(self.num_kv_heads // 2, 1),
        )


PRESETS = ('llama3_8b', 'llama31_8b', 'llama32_1b', 'llama32_3b', 'llama3_70b')
