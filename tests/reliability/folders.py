"""What two folders of results have to agree in, and what should not be left in one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from kb_lens.records.tables import read_parquet

_TIMES = {"seconds", "since"}
"""Keys of what differs from run to run."""
_SPEC = re.compile(r'<script type="application/json">|Plotly\.newPlot\(\s*"[^"]*",')
"""What comes before a figure's data in a page."""
_ROW_OF_TIMES = re.compile(r"<dt>seconds</dt>.*?</dd>", re.DOTALL)


def contents(folder: Path) -> dict[str, Any]:
    """Every file that is a result -> what it says, without times.

    The store's entries carry times; what they say is in the results too, so their keys count.
    """
    results: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or ".kb_lens" in name.parts or "locks" in name.parts:
            continue
        if "store" in name.parts:
            results[(name.parent / name.name.partition("-")[0]).as_posix()] = "kept"
        else:
            results[name.as_posix()] = _content(path)
    return results


def difference(folder: Path, other: Path) -> str:
    """The first file in which two folders differ; empty if they are equal."""
    mine, others = contents(folder), contents(other)
    for name in sorted({*mine, *others}):
        if mine.get(name) != others.get(name):
            where = " is in one of them alone" if name not in mine or name not in others else ""
            return f"{name}{where}"
    return ""


def litter(folder: Path) -> list[str]:
    """What is left in a folder, or beside it, of work that was killed."""
    beside = [path for path in folder.parent.iterdir() if path != folder]
    left = [path for path in beside if path.name.startswith((folder.name, "converting-"))]
    for path in folder.rglob("*"):
        is_half = path.suffix in (".part", ".old", ".damaged")
        if is_half or path.parent.name in ("pieces", "holders"):
            left.append(path)
    return sorted(path.relative_to(folder.parent).as_posix() for path in left)


def figures_of(page: str) -> list[Any]:
    """The data of every figure in a page of HTML."""
    decoder = json.JSONDecoder()
    ends = [match.end() for match in _SPEC.finditer(page)]
    return [decoder.raw_decode(page[end:].lstrip())[0] for end in ends]


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _comparable(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".parquet":
        table, about = read_parquet(path)
        return [table.to_dict("list").__repr__(), _comparable(about)]
    if path.suffix == ".safetensors":
        return list(_tensors(path))
    if path.suffix == ".html":
        return _page(path.read_text(encoding="utf-8"))
    return path.read_bytes()


def _page(page: str) -> Any:
    """A page's figures, and its words."""
    words = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    words = re.sub(r'id="[^"]*"', "", _ROW_OF_TIMES.sub("", words))
    return [figures_of(page), words]


def _tensors(path: Path) -> Iterator[Any]:
    with safe_open(path, "np") as file:
        header = file.metadata() or {}
        yield {name: _comparable(_as_data(text)) for name, text in header.items()}
        for name in sorted(file.keys()):
            tensor = np.asarray(file.get_tensor(name))
            yield name, tensor.dtype.str, tensor.shape, tensor.tobytes()


def _as_data(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:  # the format's name
        return text


def _comparable(data: Any) -> Any:
    """JSON data without times, and without the digest of run.json, which has them."""
    if isinstance(data, dict):
        return {
            key: _comparable(value)
            for key, value in data.items()
            if key not in _TIMES and key != "run.json"
        }
    if isinstance(data, list):
        return [_comparable(value) for value in data]
    return repr(data)  # NaN equals itself
