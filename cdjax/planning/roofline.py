"""How long a pass over a Llama takes at least: arithmetic, memory traffic, and network.

Formulas for planning, not measurements. Each of the three is a lower bound of its own kind, and a
step takes at least the longest. What XLA adds (padding, layouts, waits) is not in them.
"""

import dataclasses

from cdjax.models.config import LlamaConfig
from cdjax.models.flops import block_parameters, forward_flops
from cdjax.planning.targets import Chip

FLOAT32 = 4

# How far a pass goes back, and the arithmetic of it all in forward passes.
BACKWARD = {'none': 1, 'activations': 2, 'gradient': 3, 'weights': 3}


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call of a program does.

    Attributes:
        useful_flops: over all devices; rematerialisation excluded, as MFU counts.
        flops: over all devices, rematerialisation included.
        traffic: bytes that one device reads from and writes to its memory.
        received: bytes that one device receives from others.
        float32_flops: those of `flops` whose products are of float32, slower by a factor that
            the machine decides.
    """

    useful_flops: float
    flops: float
    traffic: float
    received: float
    float32_flops: float = 0.0

    def __add__(self, other: 'Work') -> 'Work':
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Work(*(a + b for a, b in pairs))

    def seconds(self, chip: Chip, num_devices: int) -> dict[str, float]:
        """Returns the least time, in seconds, by what takes it."""
        in_16_bits = self.flops - self.float32_flops
        arithmetic = in_16_bits / chip.peak.bfloat16 + self.float32_flops / chip.peak.float32
        return {
            'arithmetic': arithmetic / num_devices,
            'memory': self.traffic / chip.bandwidth,
            'network': self.received / chip.interconnect,
        }


def llama_work(
    config: LlamaConfig,
    rows: int,
    length: int,
    logit_positions: int,
    *,
    fsdp: int,
    tensor: int,
    backward: str,
    remat: str = 'none',
    compute_bytes: int = 2,
    microbatches: int = 1,
) -> Work:
    """Returns the work of a forward pass, with what goes back behind it.

    Weights lie in slices over `fsdp` and are gathered, in the dtype of the computation, for each
    pass; in a training with AdamW gradients are summed and scattered in float32; over `tensor` each
    block sums its two outputs once a pass. Activations are written once and read once.

    Args:
        config: the model.
        rows: sequences over all devices (B).
        length: positions of each (T).
        logit_positions: positions of each row whose logits are computed.
        fsdp: size of the mesh axis.
        tensor: size of the mesh axis.
        backward: key of `BACKWARD`: 'none' is a forward pass; 'activations' goes back through
            frozen weights, to masks; 'weights' is a training step with its update, and 'gradient'
            another pass of that step, whose gradient is added before it.
        remat: key of `REMAT_POLICIES`; with 'full' the blocks' forward pass runs twice.
        compute_bytes: bytes of a number of the computation; 4 for products of float32.
        microbatches: parts of the batch that run one after the other.
    """
    c = config
    forward = forward_flops(c, rows, length, rows * logit_positions)
    times, training = BACKWARD[backward], backward == 'weights'
    recomputed = forward_flops(c, rows, length, 0) if times > 1 and remat == 'full' else 0
    passes = (2 if times > 1 else 1) + (1 if recomputed else 0)

    embeddings = c.vocab_size * c.hidden_size * (1 if c.tie_embeddings else 2)
    parameters = block_parameters(c) + embeddings
    slice_bytes = compute_bytes * parameters / tensor
    apart = 1 - 1 / fsdp
    weights_read = passes * microbatches * slice_bytes
    gathered = weights_read * apart
    update = 8 * FLOAT32 * parameters / (fsdp * tensor)  # weights, two moments, gradients: in, out
    scattered = FLOAT32 * parameters / tensor * apart

    tokens = rows * length / fsdp
    heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
    of_layer = 6 * c.hidden_size + (3 * c.intermediate_size + heads) / tensor
    activations = passes * 2 * compute_bytes * tokens * c.num_layers * of_layer
    head = times * FLOAT32 * c.vocab_size / tensor
    head *= rows * logit_positions / fsdp
    summed = 2 * passes * c.num_layers * 2 * (1 - 1 / tensor)
    summed *= tokens * c.hidden_size * compute_bytes

    flops = times * forward + recomputed
    return Work(
        useful_flops=times * forward,
        flops=flops,
        traffic=weights_read + gathered + activations + head + (update if training else 0),
        received=gathered + summed + (scattered if training else 0),
        float32_flops=flops if compute_bytes == FLOAT32 else 0,
    )
