"""Pydantic without plugins: it would search every installed package for some and load them, code of others.

Called by ``fields`` before it defines a model. State: the module of pydantic that loads plugins, and the environment.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

LOADER = "pydantic.plugin._loader"


class _Loader(ModuleType):
    """Stands for pydantic's loader, which imports 35 modules to find that plugins are off: a fifth of a manifest's first reading.

    What a newer pydantic may look for in it besides, the real one has.
    """

    def get_plugins(self) -> tuple[object, ...]:
        return ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(LOADER, None)
        return getattr(import_module(LOADER), name)


def forgo() -> None:
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.modules.setdefault(LOADER, _Loader(LOADER))
