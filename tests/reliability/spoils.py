"""Ways in which files are damaged: each makes a function of `BadInput.spoil`."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_tensors


def written(name, content):
    """A file of the case's own."""

    def spoil(made):
        path = made.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def copied(source, name, change):
    """A copy of a folder of the world as ``{HERE}/name``, in which something is changed."""

    def spoil(made):
        folder = made.here / name
        ignored = shutil.ignore_patterns("figures", "store", "report.html", ".kb_lens")
        shutil.copytree(made.world / source, folder, ignore=ignored)
        change(folder, made)

    return spoil


def contents(name, change):
    """A file's bytes, changed by a function."""

    def spoil(folder, made):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def as_folder(name):
    """A folder where a file was."""

    def spoil(folder, made):
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def gone(name):
    """A file lost."""
    return lambda folder, made: (folder / name).unlink()


def taken(name, source):
    """A file, or folder, of another folder of the world."""

    def spoil(folder, made):
        if (made.world / source / name).is_dir():
            shutil.rmtree(folder / name)
            shutil.copytree(made.world / source / name, folder / name)
        else:
            shutil.copy(made.world / source / name, folder / name)

    return spoil


def edited(name, *keys, value):
    """JSON with another value at some keys; without the last one if the value is Ellipsis."""

    def spoil(folder, made):
        content = json.loads((folder / name).read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return spoil


def table(name, change):
    """A CSV file with another table in it."""

    def spoil(folder, made):
        rows = pd.read_csv(folder / name, keep_default_na=False)
        change(rows).to_csv(folder / name, index=False)

    return spoil


def parquet(name, change):
    """A parquet file with another table and the same metadata."""

    def spoil(folder, made):
        before = pq.read_table(folder / name)
        after = pa.Table.from_pandas(change(before.to_pandas()))
        metadata = {**after.schema.metadata, b"kb_lens": before.schema.metadata[b"kb_lens"]}
        pq.write_table(after.replace_schema_metadata(metadata), folder / name)

    return spoil


def tensors(name, change):
    """A safetensors file with other tensors and the same header."""

    def spoil(folder, made):
        content = (folder / name).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])["__metadata__"]
        save_tensors(change(load_file(folder / name)), folder / name, header)

    return spoil


def header(name, key, value):
    """A safetensors file with another text in its header."""

    def spoil(folder, made):
        content = (folder / name).read_bytes()
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        metadata[key] = value
        save_tensors(load_file(folder / name), folder / name, metadata)

    return spoil


GARBAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "blank": lambda content: b"\n\n",
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"hello, world\n",
    "html": lambda content: b"<!DOCTYPE html><html><body>404</body></html>",
    "picture": lambda content: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "utf-16": lambda content: "a,b\n1,2\n".encode("utf-16"),
}
"""What a file may hold that it should not, whatever its format."""
NO_JSON = {
    "null": lambda content: b"null",
    "list": lambda content: b"[]",
    "nothing in it": lambda content: b"{}",
    "number": lambda content: b"7",
    "deep": lambda content: b"[" * 100_000 + b"]" * 100_000,
    "two": lambda content: content + content,
    "comment": lambda content: b"// by hand\n" + content,
    "half character": lambda content: b'{"a": "\\ud800"}',
}
"""What a JSON file may hold that it should not."""
OTHER_TENSORS = {
    "another's": lambda folder, name: save_file({"x": np.zeros(3)}, folder / name),
}
"""A safetensors file of somebody else's."""
