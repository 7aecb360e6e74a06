"""What the devices can do, by the name that JAX gives them."""

from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import Mesh


class Peak(NamedTuple):
    """Dense FLOP/s of one device by the dtype of a computation (`cdjax.precision`).

    A tuple of `bfloat16` and of `float32` whose products are those of float32: neither TF32 nor
    bfloat16.
    """

    bfloat16: float
    float32: float

    def of(self, dtype: str) -> float:
        """Returns the peak of a computation in float32, or in 16 bits, which are all as fast."""
        return self.float32 if dtype == 'float32' else self.bfloat16


def _tpu(bfloat16: float) -> Peak:
    """A product of float32 is six of bfloat16 there (`jax.lax.Precision.HIGHEST`)."""
    return Peak(bfloat16, bfloat16 / 6)


# By `device_kind`; vendors' figures.
PEAK_FLOPS: dict[str, Peak] = {
    'TPU v4': _tpu(275e12),
    'TPU v5 lite': _tpu(197e12),  # v5e
    'TPU v5': _tpu(459e12),  # v5p
    'TPU v6 lite': _tpu(918e12),  # v6e
    'NVIDIA H100 80GB HBM3': Peak(989e12, 67e12),  # SXM
    'NVIDIA H200': Peak(989e12, 67e12),
    'NVIDIA A100-SXM4-40GB': Peak(312e12, 19.5e12),
    'NVIDIA A100-SXM4-80GB': Peak(312e12, 19.5e12),
}


def least_seconds(flops: Mapping[str, float], mesh: Mesh) -> float | None:
    """Returns the time that arithmetic takes on a mesh at its peak, in seconds.

    None for a device without an entry. CPUs have none: a utilisation of them would say nothing.

    Args:
        flops: name of the dtype of the computation → FLOPs over all devices.
        mesh: the mesh.
    """
    peak = PEAK_FLOPS.get(mesh.devices.flat[0].device_kind)
    if peak is None:
        return None
    return sum(count / peak.of(dtype) for dtype, count in flops.items()) / mesh.devices.size
