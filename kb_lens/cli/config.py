"""``--config FILE``: options from a file; those of the command line take precedence.

The file is a ``run.json``, whose command is repeated with its settings, or YAML (or JSON) with the
names of options. Imports nothing slow.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from cyclopts import App, Argument, ArgumentCollection

from kb_lens.arguments import did_you_mean
from kb_lens.cli.parsing import is_list
from kb_lens.rows import json_value, read_utf8, shown

_CONFIG = "--config"
_BY_HAND = ("--trust-remote-code", "--push")
"""Options that no file may give: they run code or upload something, and files are shared."""

Values = dict[str, Any]


def read_config(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take options that were not given from the file; cyclopts' ``config`` hook.

    Raises:
        ValueError: If the file cannot be used; the message names it and the option.
    """
    given = next((argument for argument in arguments if argument.name == _CONFIG), None)
    if given is None or not given.tokens:
        return
    from cyclopts.config import Dict  # imported only if needed: it takes 10 ms

    path = Path(given.tokens[-1].value)
    options = _options(arguments)
    values = _options_in(path, commands[-1], options)
    for name, value in values.items():
        _check(f"'{path}': {name}", value, options[_key(name)])
    by_name = {_long(options[_key(name)]): value for name, value in values.items()}
    if len(by_name) < len(values):
        raise ValueError(f"'{path}' has an option twice: {', '.join(values)}.")
    # cyclopts does not convert an empty list, but the fields are tuples.
    by_name = {name: () if value == [] else value for name, value in by_name.items()}
    Dict({commands[-1]: by_name}, source=str(path))(app, commands[-1:], arguments)


def _options(arguments: ArgumentCollection) -> dict[str, Argument]:
    """The options by their names on the command line and by their fields' names, as in run.json."""
    options: dict[str, Argument] = {}
    for argument in arguments:
        if argument.parse and argument.name not in ("*", _CONFIG):
            options |= {_key(name): argument for name in (argument.name, argument.field_info.name)}
    return options


def _key(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _long(option: Argument) -> str:
    return option.name.lstrip("-")


def _is_by_hand(option: Argument) -> bool:
    return option.name in _BY_HAND


def _options_in(path: Path, command: str, options: Mapping[str, Argument]) -> Values:
    """The options of a command in a file."""
    content = _table(path)
    if isinstance(content.get("arguments"), dict) and "command" in content:
        return _of_record(path, command, content, options)
    if all(isinstance(section, dict) for section in content.values()):
        if command not in content:
            raise ValueError(f"'{path}' has no section {command}: it has {', '.join(content)}.")
        content = _by_text(content[command])
    for name in content:
        if _key(name) not in options:
            allowed = ", ".join(dict.fromkeys(map(_long, options.values())))
            raise ValueError(
                f"'{path}' has {shown(name)}, which is not an option of `kb-lens {command}`: "
                f"allowed are {allowed}.{did_you_mean(_key(name), options)}"
            )
        if _is_by_hand(options[_key(name)]):
            raise ValueError(
                f"'{path}' has {name}, which no file may give: remove it, and give "
                f"{options[_key(name)].name} on the command line if you want it."
            )
    return content


def _table(path: Path) -> Values:
    """The values of the file by name."""
    text = read_utf8(path, "file for --config")
    try:
        content = json_value(text) if path.suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"'{path}' is not {kind}: {error}.") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"'{path}' has no options: give names and values, such as 'lam: [2, 3]', or a run.json."
        )
    return _by_text(content)


def _by_text(table: Mapping[Any, Any]) -> Values:
    """The table with text names: YAML allows others."""
    return {str(name): value for name, value in table.items()}


def _part(record: Values, name: str) -> Values:
    """A table in a run.json; damaged or old files may not have it."""
    part = record.get(name)
    return _by_text(part) if isinstance(part, dict) else {}


def _yaml(text: str) -> Any:
    """YAML whose values stay text, as on the command line."""
    import yaml

    class AsTyped(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012 - it is PyYAML's
            first: [rule for rule in rules if rule[0].endswith(":null")]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        return yaml.load(text, AsTyped)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace('in "<unicode string>", ', "in ")) from error


def _of_record(path: Path, command: str, record: Values, options: Mapping[str, Argument]) -> Values:
    """The arguments in a run.json. Its execution belongs to its machine and is not taken."""
    if record["command"] != command:
        raise ValueError(
            f"'{path}' is of `kb-lens {record['command']}`, not of `kb-lens {command}`, where "
            "settings may mean something else. Write those that you want into a YAML file."
        )
    arguments: Values = record["arguments"]
    unknown = [name for name in arguments if _key(name) not in options]
    if unknown:
        version = _part(record, "versions").get("kb-lens")
        raise ValueError(
            f"'{path}' has {shown(unknown[0])}, which this version of kb-lens does not know: it "
            f"was written by version {version}. Install that version to repeat the run."
        )
    by_hand = {name for name in arguments if _is_by_hand(options[_key(name)])}
    how = {name: arguments[name] for name in by_hand} | _part(record, "execution")
    _say_what_is_not_taken(path, how, options)
    return {name: value for name, value in arguments.items() if name not in by_hand}


def _say_what_is_not_taken(path: Path, how: Values, options: Mapping[str, Argument]) -> None:
    told = [
        f"{option.name} {value}"
        for name, value in how.items()
        if (option := options.get(_key(name))) and value != option.field_info.default
        if not option.tokens  # not if it was given
    ]
    if told:
        sys.stderr.write(
            f"kb-lens: the run in '{path}' was done with {', '.join(told)}, which is not taken "
            "from the file: give it if you want it.\n"
        )


def _check(what: str, value: Any, option: Argument) -> None:
    """Refuse values that the command line does not allow."""
    # Lists and tables are not shown: by YAML's references a small file may have billions of parts.
    values = value if isinstance(value, list) and is_list(option) else [value]
    if value is None and type(None) not in get_args(option.hint):
        raise ValueError(f"{what} has no value: give one, or remove the line.")
    if not all(item is None or isinstance(item, str | int | float) for item in values):
        raise ValueError(f"{what} is a list or table: write it as on the command line.")
    if value is not None and None in values:
        raise ValueError(f"{what} has an entry without a value: give one, or remove it.")
