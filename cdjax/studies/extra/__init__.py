"""Studies that the package brings: each module of this folder adds its own to `STUDIES`."""

import importlib
import pkgutil

from cdjax.studies.study import STUDIES

__all__ = ['STUDIES']

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
