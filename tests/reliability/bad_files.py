"""Files that a user writes, model folders, and folders for results: damaged, missing, forbidden."""

import json
import shutil

import spoils
from bad_inputs import LINES, MODEL_LINES, OUT, READ_LINES, TASK_LINES, BadInput

PATHS = {
    "bank": "run identify experiment neurons doctor",
    "control-bank": "experiment doctor",
    "examples": "run identify experiment neurons doctor",
    "neurons": "evaluate export tune neurons",
    "attributions": "neurons",
    "config": "run identify evaluate export experiment paper tune neurons doctor tasks",
}
"""Option that names a file -> the commands that have it."""
FOLDERS = {"data-dir": "run evaluate experiment tune tasks", "results": "doctor export"}
"""The same of folders."""
NO_FILES = {
    "missing": "{HERE}/none.csv", "a folder": "{HERE}", "below a file": "{BANK}/x.csv",
    "a long name": "{HERE}/" + "x" * 300, "empty": "''", "a device": "/dev/null",
}  # fmt: skip
NO_FOLDERS = {
    "missing": "{HERE}/none", "a file": "{BANK}", "below a file": "{BANK}/x",
    "a long name": "{HERE}/" + "x" * 300,
}  # fmt: skip


def _option(command, option, value):
    # The option's file is what is tried: it is not given twice.
    line, _, rest = LINES[command].partition(f" --{option} ")
    needed = {("evaluate", "neurons"): " --lam 2", ("doctor", "control-bank"): " --specificity"}
    more = needed.get((command, option), "")
    return f"{line} {rest.partition(' ')[2]} --{option}={value}{more}"


def _paths():
    for options, values in ((PATHS, NO_FILES), (FOLDERS, NO_FOLDERS)):
        for option, commands in options.items():
            for command in commands.split():
                for what, value in values.items():
                    line = f"{_option(command, option, value)}  # {what}"
                    yield BadInput("paths", line, (_name(value),))
    for command, line in READ_LINES.items():
        for what, value in NO_FOLDERS.items():
            before = line.partition(" ")[0]
            second = " {BASE}" if command == "compare" else ""
            line = f"{before} {value}{second}{OUT}  # {what}"
            yield BadInput("paths", line, (_name(value),))


def _name(value):
    """What a line has to call a path."""
    if value in ("''", "{HERE}"):
        return "file"
    return value.replace("{BANK}", "bank.csv").rpartition("/")[2][:20]


GOOD = "id,dimension,kind,concept,text,answer\n"
ROW = "g1,gender,causal_rejection,jobs,Is it {}?,no\n"
BANKS = {
    "columns of others": "a,b,c\n1,2,3\n",
    "a byte order mark and columns of others": "\ufeffa;b\n1;2\n",
    "UTF-16": (GOOD + ROW.format("so")).encode("utf-16"),
    "cp1252": (GOOD + ROW.format("naïve")).encode("cp1252"),
    "a quote not closed": GOOD + 'g1,gender,causal_rejection,jobs,"Is it so?,no\n',
    "a cell too many": GOOD + "g1,gender,causal_rejection,jobs,Is it so, really?,no\n",
    "no rows": GOOD,
    "nothing": "",
    "blank": "\n \n\n",
    "no answers": "dimension,kind,text\ngender,causal_rejection,Is it so?\n",
    "an answer that is none": GOOD + "g1,gender,causal_rejection,jobs,Is it so?,maybe\n",
    "an answer of 1": GOOD + "g1,gender,causal_rejection,jobs,Is it so?,1\n",
    "no text": GOOD + "g1,gender,causal_rejection,jobs,,no\n",
    "a dimension that is a path": GOOD + "g1,../../x,causal_rejection,jobs,Is it so?,no\n",
    "a dimension that is a device": GOOD + "g1,nul,causal_rejection,jobs,Is it so?,no\n",
    "a dimension that is empty": GOOD + "g1,,causal_rejection,jobs,Is it so?,no\n",
    "a huge cell": GOOD + ROW.format("x" * 200_000),
    "a column twice": "text,text,answer,dimension,kind\na,b,no,gender,x\n",
    "JSON": json.dumps([{"text": "Is it so?", "answer": "no"}]),
    "zeros": bytes(500),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}
"""What --bank, --control-bank and --examples may hold that they should not."""
EXAMPLES = {
    "columns of others": "a,b\n1,2\n",
    "no answers": "question,answer\nIs it?,\n",
    "no rows": "question,answer\n",
    "nothing": "",
    "semicolons and commas": "question;answer\nIs it, so?;yes;no\n",
    "cp1252": "question,answer\nnaïve?,no\n".encode("cp1252"),
    "UTF-16": "question,answer\nso?,no\n".encode("utf-16"),
    "a quote not closed": 'question,answer\n"so?,no\n',
    "zeros": bytes(50),
}
JSON_LINES = {
    "no JSON": "hello\n",
    "a list": "[1, 2]\n",
    "a number": "7\n",
    "keys of others": '{"a": 1}\n',
    "deep": "[" * 100_000 + "\n",
    "cut": '{"question": "so?", "ans',
    "nothing": "",
    "NaN": '{"question": NaN, "answer": "no"}\n',
    "UTF-16": '{"question": "so?", "answer": "no"}\n'.encode("utf-16"),
    "half a character": '{"question": "\\ud800", "answer": "no"}\n',
}
"""What a .jsonl file of examples, or of a benchmark, may hold that it should not."""


def _banks():
    for option, commands in (("bank", "identify neurons"), ("control-bank", "doctor experiment")):
        for command in commands.split():
            first = command in ("identify", "doctor")
            for what, content in list(BANKS.items())[:: 1 if first else 4]:
                line = f"{_option(command, option, '{HERE}/own.csv')}  # {what}"
                yield BadInput("banks", line, ("own.csv",), spoils.written("own.csv", content))
    for what, content in EXAMPLES.items():
        line = f"{LINES['identify']} --examples {{HERE}}/own.csv  # {what}"
        yield BadInput("banks", line, ("own.csv",), spoils.written("own.csv", content))
    for what, content in JSON_LINES.items():
        line = f"{LINES['identify']} --examples {{HERE}}/own.jsonl  # {what}"
        yield BadInput("banks", line, ("own.jsonl",), spoils.written("own.jsonl", content))


def _data():
    for benchmark, file in (("stereoset", "dev.jsonl"), ("openbookqa", "test.jsonl")):
        for what, content in JSON_LINES.items():
            line = (f"evaluate {{MODEL}} --data-dir {{HERE}} --benchmarks {benchmark}{OUT}"
                    f"  # {file}: {what}")  # fmt: skip
            spoil = spoils.written(f"{benchmark}/{file}", content)
            yield BadInput("benchmark files", line, (file,), spoil)
    for what, content in BANKS.items():
        file = "crows_pairs_anonymized.csv"
        line = f"evaluate {{MODEL}} --data-dir {{HERE}} --benchmarks crows_pairs{OUT}  # {what}"
        spoil = spoils.written(f"crows_pairs/{file}", content)
        yield BadInput("benchmark files", line, (file,), spoil)


FILES_OF_NEURONS = ("evaluate", "export", "tune", "neurons")


def _neurons():
    for command in FILES_OF_NEURONS:
        for what, change in (spoils.GARBAGE | spoils.NO_JSON).items():

            def spoil(made, change=change):
                content = (made.world / "run/neurons.json").read_bytes()
                (made.here / "own.json").write_bytes(change(content))

            line = f"{_option(command, 'neurons', '{HERE}/own.json')}  # {what}"
            yield BadInput("neurons files", line, ("own.json",), spoil)
    for what, change in spoils.GARBAGE.items():

        def spoil(made, change=change):
            content = (made.world / "run/attributions.safetensors").read_bytes()
            (made.here / "own.safetensors").write_bytes(change(content))

        line = f"{LINES['neurons']} --attributions {{HERE}}/own.safetensors  # {what}"
        yield BadInput("neurons files", line, ("own.safetensors",), spoil)


MODEL_DAMAGE = {
    **{f"no {name}": spoils.gone(name)
       for name in ("config.json", "tokenizer.json", "model.safetensors")},
    **{f"{name}: {what}": spoils.contents(name, change)
       for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
       for what, change in spoils.GARBAGE.items()},
    **{f"config.json: {what}": spoils.contents("config.json", change)
       for what, change in spoils.NO_JSON.items()},
    **{f"config.json: {key} {value!r}": spoils.edited("config.json", key, value=value)
       for key, value in (
           ("model_type", "bert"), ("model_type", "nonesuch"), ("model_type", 7),
           ("architectures", ["BertForMaskedLM"]), ("hidden_size", 64),
           ("hidden_size", 0), ("hidden_size", -1), ("hidden_size", "x"), ("vocab_size", 7),
           ("num_hidden_layers", 5), ("num_hidden_layers", 2), ("num_hidden_layers", 0),
           ("intermediate_size", 96), ("num_attention_heads", 0), ("num_attention_heads", 5),
       )},
}  # fmt: skip
"""What may be wrong with a checkpoint."""
TEMPLATES = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "raising": "{{ raise_exception('no system texts') }}",
    "empty": "{% if messages %}{% endif %}",
    "no template": "{% for message in",
    "no such function": "{{ nonesuch(messages) }}",
    "divides by zero": "{{ 1 / 0 }}{{ messages }}",
    "loses what is said": "hello",
    "endless text": "{{ 'x' * 10 ** 10 }}",
}
"""Chat templates that no question can be put into."""


def _models():
    for what, change in MODEL_DAMAGE.items():
        line = f"identify {{HERE}}/own --bank {{BANK}}{OUT}  # {what}"
        spoil = spoils.copied("model", "own", change)
        yield BadInput("model folders", line, ("own",), spoil, slow=True)
    for what, template in TEMPLATES.items():

        def change(folder, made, template=template):
            (folder / "chat_template.jinja").write_text(template)

        line = f"identify {{HERE}}/own --bank {{BANK}}{OUT}  # {what}"
        spoil = spoils.copied("model", "own", change)
        yield BadInput("chat templates", line, ("template",), spoil, slow=True)
    for what, content in {"cut": b"GGUF\x03\0\0\0", "nothing": b"", "text": b"hello"}.items():
        line = f"identify {{HERE}}/own.gguf --bank {{BANK}}{OUT}  # {what}"
        spoil = spoils.written("own.gguf", content)
        yield BadInput("model folders", line, ("own.gguf",), spoil, slow=True)
    for name in ("{HERE}/none", "{HERE}", "{BANK}", "{DATA}", "no/such-model", "''", "a b", "../x"):
        yield BadInput("model folders", f"identify '{name.strip(chr(39))}' --bank {{BANK}}{OUT}",
                       ("model",), slow=True)  # fmt: skip


def _below_a_file(made):
    (made.here / "file").write_text("mine")


OUTS = {
    "a file": ("{HERE}/file", _below_a_file, "file"),
    "below a file": ("{HERE}/file/out", _below_a_file, "file"),
    "a long name": ("{HERE}/" + "x" * 300, None, "xxx"),
    "in /proc": ("/proc/kb_lens", None, "/proc"),
    "in /dev/null": ("/dev/null/out", None, "/dev/null"),
}
"""Folders in which nothing can be written."""


def _outs():
    for what, (path, spoil, word) in OUTS.items():
        for command, line in (MODEL_LINES | READ_LINES | TASK_LINES).items():
            # a report is a file, and an export is refused by the system alone in /proc
            if (what, command) in {("a file", "report"), ("in /proc", "export")}:
                continue
            line = f"{line} --out {path}  # {what}"
            yield BadInput("--out", line, (word,), spoil)
    for command in MODEL_LINES:
        if command == "export":
            continue
        for what, change in (spoils.GARBAGE | spoils.NO_JSON).items():

            def spoil(made, change=change, command=command):
                folder = made.here / "own" / ("lambda" if command == "experiment" else "")
                shutil.copytree(made.world / "base", folder)
                path = folder / "run.json"
                path.write_bytes(change(path.read_bytes()))

            line = f"{MODEL_LINES[command]} --out {{HERE}}/own  # run.json: {what}"
            yield BadInput("--out", line, ("run.json",), spoil)

        def other(made, command=command):
            folder = made.here / "own" / ("lambda" if command == "experiment" else "")
            shutil.copytree(made.world / "base", folder)

        line = f"{MODEL_LINES[command]} --seed 7 --out {{HERE}}/own  # another run"
        yield BadInput("--out", line, ("own",), other)


PATH_CASES = tuple(_paths())
BANK_CASES = (*_banks(), *_data(), *_neurons())
OUT_CASES = tuple(_outs())
MODEL_CASES = tuple(_models())
