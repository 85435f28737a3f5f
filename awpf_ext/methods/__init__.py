"""Continual-learning methods, one file each, which register themselves by name."""

from __future__ import annotations

import importlib
import pkgutil

from awpf_ext.finetuning.roles import Role
from awpf_ext.methods._base.method import Method, MethodConfig
from awpf_ext.methods._base.presets import PRESETS
from awpf_ext.methods.registry import (
    METHODS,
    create_method,
    method_class,
    method_config,
    register,
)

# Every file of this folder is imported, so adding a file is enough to add a method.
for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "METHODS",
    "PRESETS",
    "Method",
    "MethodConfig",
    "Role",
    "create_method",
    "method_class",
    "method_config",
    "register",
]
