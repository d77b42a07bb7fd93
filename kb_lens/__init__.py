"""kb_lens: find the neurons of a language model that know what bias is, and enhance them.

The public names are in ``__init__.pyi``, in the order in which data flows. Each is imported when it
is used first: torch and transformers take seconds.
"""

from typing import Any

from lazy_loader import attach_stub

_public_name, __dir__, __all__ = attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kb-lens")
    return _public_name(name)
