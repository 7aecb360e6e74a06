"""The activations of a block that can be edited and captured, by name."""

import dataclasses

from cdjax.models.config import LlamaConfig
from cdjax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Site:
    """A named activation `[B, T, ...]` that a block passes through `site(key, value)`.

    Attributes:
        key: its name in edits and captures.
        axes: fields of the model's config, one for each axis behind `[B, T]`. The first counts
            the units of the site: what a mask switches on and off.
        module: the part of a block that computes it, `mlp` or `attention`; None for the whole
            block.
        output: the matrix of that part through which its units write into the residual stream,
            `[units x coordinates of each, hidden_size]`; None where they do not write by a matrix.
    """

    key: str
    axes: tuple[str, ...]
    module: str | None = None
    output: str | None = None

    def shape(self, config: LlamaConfig) -> tuple[int, ...]:
        """Returns the shape behind `[L, B, T]`."""
        return tuple(getattr(config, axis) for axis in self.axes)

    def units(self, config: LlamaConfig) -> int:
        """Returns U: neurons, heads, or coordinates of a stream; a mask is `[K, L, U]`."""
        return self.shape(config)[0]


# In the order of the computation. A site of a user's own is added here, and passed through
# `site` where its block computes it.
SITES: Registry[Site] = Registry('site')
RESIDUAL = SITES.add(Site('residual', ('hidden_size',)))
SITES.add(Site('head_out', ('num_heads', 'head_dim'), 'attention', 'o'))
SITES.add(Site('attention_out', ('hidden_size',), 'attention'))
SITES.add(Site('neurons', ('intermediate_size',), 'mlp', 'down'))
SITES.add(Site('mlp_out', ('hidden_size',), 'mlp'))
