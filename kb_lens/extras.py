"""What an extra needs, for messages: kb_lens may come from a checkout, a wheel or an index."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires


def install_command(extra: str) -> str:
    """The command that installs the packages of an extra, in the versions that kb_lens allows."""
    try:
        entries = requires("kb-lens") or []
    except PackageNotFoundError:  # a source tree that is on the path and was never installed
        return f"pip install -e '.[{extra}]' (in the checkout of kb_lens)"
    packages = [
        f"'{package.strip()}'"
        for package, _, marker in (entry.partition(";") for entry in entries)
        if f"extra == '{extra}'" in marker.replace('"', "'")
    ]
    return f"pip install {' '.join(packages)}"
