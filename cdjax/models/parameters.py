"""The parameters of a Llama, without their values, and the stored tensors they are made of."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from cdjax.models.config import LlamaConfig
from cdjax.models.llama import Llama
from cdjax.parallel.mesh import path_name

# Our parameter -> the stored tensor, and whether it is stored transposed (torch has [out, in]).
# A name with {} stands for one tensor a layer, stacked here. Queries and keys need no permutation:
# `rotate` uses Hugging Face's layout of the halves.
TENSORS = {
    'embed.weight': ('model.embed_tokens.weight', False),
    'layers.input_norm.weight': ('model.layers.{}.input_layernorm.weight', False),
    'layers.attention.q.weight': ('model.layers.{}.self_attn.q_proj.weight', True),
    'layers.attention.k.weight': ('model.layers.{}.self_attn.k_proj.weight', True),
    'layers.attention.v.weight': ('model.layers.{}.self_attn.v_proj.weight', True),
    'layers.attention.o.weight': ('model.layers.{}.self_attn.o_proj.weight', True),
    'layers.mlp_norm.weight': ('model.layers.{}.post_attention_layernorm.weight', False),
    'layers.mlp.gate.weight': ('model.layers.{}.mlp.gate_proj.weight', True),
    'layers.mlp.up.weight': ('model.layers.{}.mlp.up_proj.weight', True),
    'layers.mlp.down.weight': ('model.layers.{}.mlp.down_proj.weight', True),
    'norm.weight': ('model.norm.weight', False),
    'lm_head.weight': ('lm_head.weight', True),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter and the stored tensors it is made of.

    Attributes:
        name: our name.
        sources: names of the stored tensors, one for each layer where the parameter is stacked.
        stacked: whether the first axis of the parameter counts layers.
        transposed: whether a stored tensor is [out, in] and the parameter [in, out].
    """

    name: str
    sources: tuple[str, ...]
    stacked: bool
    transposed: bool

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of one stored tensor for a parameter of `shape`."""
        one = shape[1:] if self.stacked else shape
        return one[::-1] if self.transposed else one


def describe_parameters(config: LlamaConfig) -> list[Parameter]:
    """Returns the parameters of a model in the order of its tree."""
    return list(_described(config, Llama.block))


@functools.lru_cache(maxsize=8)
def _described(config: LlamaConfig, block: type) -> tuple[Parameter, ...]:
    """Of models of one block: loading asks for it again and again."""
    paths, _ = jax.tree_util.tree_flatten_with_path(abstract_model(config))
    parameters = []
    for path, _ in paths:
        name = path_name(path)
        source, transposed = TENSORS[name]
        stacked = '{}' in source
        layers = config.num_layers if stacked else 1
        sources = tuple(source.format(layer) for layer in range(layers))
        parameters.append(Parameter(name, sources, stacked, transposed))
    return tuple(parameters)


def abstract_model(config: LlamaConfig, dtype=jnp.float32) -> Llama:
    """Returns the model with shapes and dtypes in place of arrays."""
    # A copy, for the parts of a model may be set.
    return jax.tree.map(lambda leaf: leaf, _abstract(config, jnp.dtype(dtype), Llama.block))


@functools.lru_cache(maxsize=16)
def _abstract(config: LlamaConfig, dtype, block: type) -> Llama:
    """Of models of one block: it is asked for with every load and count, and takes a trace."""
    # The key too is made within: outside it would be computed, which starts the devices.
    return jax.eval_shape(lambda: Llama(config, jax.random.key(0), dtype=dtype))
