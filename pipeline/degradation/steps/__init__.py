"""The steps that degradations are made of, one a file: a new one is found by being here."""

from importlib import import_module
from pkgutil import iter_modules

from pipeline.degradation.step import STEPS

__all__ = ["STEPS"]

for _module in iter_modules(__path__, prefix=f"{__name__}."):
    import_module(_module.name)
