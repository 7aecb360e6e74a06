"""Useful floating-point operations of a Llama by formula: what MFU and the planner count.

XLA's own count (`cost_analysis`) takes the body of a scan once, whatever its length, so it cannot
be used here.
"""

from cdjax.models.config import LlamaConfig


def block_parameters(config: LlamaConfig) -> int:
    """Returns N, the entries of all matrices of the blocks: no embedding, head or norm."""
    c = config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
    return c.num_layers * (attention + 3 * c.hidden_size * c.intermediate_size)


def forward_flops(config: LlamaConfig, rows: int, length: int, logits: int) -> int:
    """Returns the useful FLOPs of one forward pass.

    `2N` a token, `2dV` for each position whose logits are computed, and causal attention, in
    which position t sees t + 1 keys: `4·H·h·(t + 1)` for scores and values, in every layer. A
    training step costs three times as much (once forward, twice backward); what rematerialisation
    computes again is not useful and not counted. Every layer counts whole, also the last of a
    shallow model, which is computed where it is read alone.

    Args:
        config: the model.
        rows: sequences (B).
        length: positions of each, padding included (T).
        logits: positions whose logits are computed, over all rows.
    """
    c = config
    tokens = 2 * block_parameters(c) * rows * length
    pairs = rows * length * (length + 1) // 2
    attention = c.num_layers * 4 * c.num_heads * c.head_dim * pairs
    return tokens + attention + 2 * c.hidden_size * c.vocab_size * logits
