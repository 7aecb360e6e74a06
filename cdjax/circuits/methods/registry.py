"""The table of methods, which the package fills in the order of reports."""

from cdjax.circuits.methods.method import Method
from cdjax.registry import Registry

METHODS: Registry[Method] = Registry('method')
