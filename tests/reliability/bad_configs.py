"""Files for ``--config`` that are no options of the command."""

import json

from bad_inputs import LINES, OUT, BadInput
from spoils import written

RECORD = {"command": "run", "arguments": {"seed": 1}, "model": {}, "versions": {"kb-lens": "9.1"}}

YAML = {
    "": "o.yaml",
    "\n": "o.yaml",
    "- seed\n- lam": "o.yaml",
    "seed": "o.yaml",
    "seed: 1.5": "--seed",
    "seed: [1, 2]": "seed",
    "seed:": "seed",
    "seed: nan": "--seed",
    "tau: text": "tau",
    "tau: .nan": "tau",
    "seed: {a: 1}": "seed",
    "seed: 1\nmax-memory: {0: 1GiB}": "max-memory",
    "dimensions: [gender, [age]]": "dimensions",
    "dimensions: [gender, gender]": "--dimensions",
    "misspelt: 3": "misspelt",
    "config: o.yaml": "config",
    "1: 2": "'1'",
    "n-steps: 3\nn_steps: 3": "n_steps",
    "overwrite: perhaps": "overwrite",
    "site: nowhere": "site",
    "trust-remote-code: true": "--trust-remote-code",
    "doctor: {seed: 2}": "doctor",
    "seed: [1": "o.yaml",
    "\tseed: 1": "o.yaml",
    "seed: !!python/object:os.system x": "o.yaml",
    "date: !!timestamp 2024-13-01": "o.yaml",
    "? [a, b]\n: c": "o.yaml",
    "[" * 5000: "o.yaml",
    "seed: 1\0": "o.yaml",
    "seed: é".encode("cp1252"): "o.yaml",
}
"""Content -> what must be named."""
RECORDS = {
    "{": "run.json",
    "[]": "run.json",
    '{"seed": 1,}': "run.json",
    '{"seed": NaN}': "run.json",
    json.dumps(RECORD | {"command": "evaluate"}): "kb-lens evaluate",
    json.dumps(RECORD | {"arguments": {"later": 1}}): "later",
    json.dumps(RECORD | {"arguments": {"seed": None}}): "seed",
    json.dumps(RECORD | {"arguments": {"seed": "text"}}): "--seed",
    json.dumps(RECORD | {"arguments": {"lam": {}}}): "lam",
    json.dumps(RECORD | {"arguments": {"lam": []}}): "--lam",
}
"""The same of what is called run.json."""


def _configs():
    for name, contents in (("o.yaml", YAML), ("run.json", RECORDS)):
        for content, word in contents.items():
            line = f"run {{MODEL}} --config {{HERE}}/{name}{OUT}  # {content!r}"
            line = line if len(line) < 120 else f"{line[:120]}..."
            yield BadInput("config files", _plain(line), (word,), spoil=written(name, content))
    for command in sorted(LINES.keys() - {"run", "compare", "figures", "report"}):
        line = f"{LINES[command]} --config {{HERE}}/o.yaml"
        yield BadInput("config files", line, ("misspelt",), spoil=written("o.yaml", "misspelt: 1"))


def _plain(line):
    """The comment of a line without the braces of a template."""
    before, mark, comment = line.partition("  # ")
    return before + mark + comment.replace("{", "(").replace("}", ")").replace("'", "")


CONFIG_CASES = tuple(_configs())
