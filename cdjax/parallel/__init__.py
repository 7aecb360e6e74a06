"""Devices as one mesh, hosts as one run, and a SIGTERM that loses nothing."""

from cdjax.parallel.mesh import (
    make_mesh,
    one_device,
)

__all__ = [
    'make_mesh',
    'one_device',
]
