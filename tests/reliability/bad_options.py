"""Options with values that they do not take, a row an option."""

from bad_inputs import LINES, BadInput

NO_NUMBERS = ("text", "''", "nan", "inf", "-inf", "1e")
NO_COUNTS = (*NO_NUMBERS, "1.5", "-1")

NUMBERS = {
    "seed": ("run identify evaluate compare export experiment tune neurons doctor tasks paper",
             (*NO_COUNTS, "4294967296", "1e39")),
    "questions": ("run identify experiment neurons doctor paper", (*NO_COUNTS, "100000", "1e39")),
    "limit": ("run evaluate experiment tune tasks paper", (*NO_COUNTS, "0")),
    "batch-size": ("run identify experiment neurons doctor paper", (*NO_COUNTS, "0")),
    "batch-tokens": ("run evaluate experiment tune paper", (*NO_COUNTS, "0")),
    "n-steps": ("run identify paper", (*NO_COUNTS, "0", "1e39")),
    "cards": ("run", (*NO_COUNTS, "1e39")),
    "controls": ("experiment", (*NO_COUNTS, "0")),
    "workers": ("run identify evaluate experiment tune neurons paper", (*NO_COUNTS, "0", "1e39")),
    "top": ("neurons", (*NO_COUNTS, "0")),
    "gpus": ("run identify evaluate experiment tune neurons paper",
             (*NO_NUMBERS, "-1", "1.5", "1e39")),
    "tau": ("run identify experiment doctor paper", (*NO_NUMBERS, "-1", "1", "1e39")),
    "beta": ("run identify experiment doctor paper", (*NO_NUMBERS, "-1", "1", "1e39")),
    "tol": ("run identify paper", (*NO_NUMBERS, "-1", "0", "1", "1e39")),
    "lam": ("run evaluate experiment tune neurons export doctor paper", (*NO_NUMBERS, "1e39")),
    "bound": ("tune", (*NO_NUMBERS, "-1", "0")),
}  # fmt: skip
"""Option -> the commands that have it, and what is no value of it."""

CHOICES = {
    "dtype": "run identify evaluate export experiment tune neurons doctor paper",
    "quantization": "run identify evaluate export experiment tune neurons doctor paper",
    "device-map": "run identify evaluate export experiment tune neurons doctor paper",
    "site": "run identify doctor paper",
    "answer-style": "run identify doctor paper",
    "rule": "run identify paper",
    "aggregation": "run identify paper",
    "positions": "neurons",
    "tuning": "run identify evaluate export experiment tune neurons doctor paper",
    "engine": "run identify evaluate experiment tune neurons paper",
    "address": "run identify evaluate experiment tune neurons paper",
    "language": "run identify experiment neurons doctor paper",
    "theme": "figures",
    "width": "figures",
    "only": "figures",
    "metrics": "figures",
    "formats": "figures",
    "device": "run identify evaluate export experiment tune neurons doctor paper",
    "protocol": "run evaluate experiment tune paper",
    "bias": "tune",
    "capability": "tune",
    "benchmarks": "run evaluate experiment tasks paper",
    "dimensions": "run identify experiment neurons doctor paper",
}
"""Option -> the commands that have it; it takes certain words alone."""
NO_CHOICES = ("''", "misspelt", "POST", "../x", "'a b'", "pöst", "-1")

LISTS = {
    "lam": ("run tune neurons paper", ("2,", ",2", "2,,3", "2,2", "2,2.0", "2;3")),
    "benchmarks": (
        "run evaluate experiment tasks paper",
        ("stereoset,", ",", "stereoset,stereoset", "stereoset@0", "stereoset@-1", "stereoset@x",
         "stereoset@", "stereoset:", "stereoset:x", "stereoset:original,stereoset", "stereoset@1.5",
         "Stereoset", "@5", ":original", "stereoset@²", "stereoset@" + "9" * 5000,
         "stereoset=", "stereoset={HERE}/none", "stereoset={HERE}", "x={BANK}", "stereoset={BANK}",
         "stereoset@2={BANK}", "=", "stereoset={HERE}/" + "x" * 300),
    ),
    "neurons": (
        "evaluate tune neurons export",
        ("L0", "L0.N", "L.N3", "L0.N3,", "L0.N3,L0.N3", "L0.N3,x", "L0.N-1", "L0.N1.5", "L99.N0",
         "L0.N99999", "''", "3", "L0.N3;L0.N4,,"),
    ),
    "dimensions": (
        "run identify experiment neurons doctor paper", ("gender,", ",", "gender,gender", "Gender")
    ),
    "formats": ("figures", ("html,", ",", "gif", "HTML")),
    "max-memory": (
        "run identify evaluate export experiment tune neurons doctor paper",
        ("0", "''", "0=", "=1GiB", "cpu=1GiB,", "0=1GiB"),
    ),
    "device-map": (
        "run identify evaluate export experiment tune neurons doctor paper",
        # braces twice: the line is a template
        ("{{", "{{}}", "'{{\"x\":99}}'", "'{{\"x\":\"nowhere\"}}'", "[1]"),
    ),
    # the line's study has no methods, whatever is named
    "also": ("experiment", ("x", "=x", "''", "x={OTHER_MODEL}", ",")),
    "template-option": (
        "run identify evaluate experiment tune neurons doctor paper",
        ("x", "=1", "''", "a=1,a=2", "messages=1", "a=1,"),
    ),
    "date": (
        "run identify evaluate experiment tune neurons doctor paper",
        ("today", "''", "2024-13-01", "2024-02-30", "24-1-1", "0000-01-01", "nan"),
    ),
}  # fmt: skip
"""Option of several values, or with a form -> the commands that have it, and what it does not
take."""


def _options(kind, table):
    for option, (commands, values) in table.items():
        first, *others = commands.split()
        # The settings of all commands share their checks: one command is tried with every value.
        tried = {first: values, **{name: values[k % 5 :: 5] for k, name in enumerate(others)}}
        for command, some in tried.items():
            for value in some:
                line = f"{_without(LINES[command], option)} --{option}={value}"
                # "no dimension 'x'" names --dimensions well enough
                yield BadInput(kind, line, (option.removesuffix("s"),))


def _without(line, option):
    """A line without an option, which may be given once."""
    before, mark, after = line.partition(f" --{option} ")
    return f"{before} {after.partition(' ')[2]}" if mark else line


CONTRADICTIONS = {
    "identify {MODEL} --n-steps 5": "n_steps",
    "identify {MODEL} --rule riemann --tol 0.1": "tol",
    "evaluate {MODEL} --lam 2": "--neurons",
    "evaluate {MODEL} --neurons {NEURONS}": "--lam",
    "doctor {MODEL} --lam 2": "--results",
    "doctor {MODEL} --results {RUN} --lam 7": "lambda 7",
    "doctor {MODEL} --bank {BANK} --control-bank {CONTROL}": "--specificity",
    "identify {MODEL} --bank {BANK} --language es": "--language",
    "identify {MODEL} --bank {BANK} --dimensions age": "age",
    "tune {MODEL} --neurons {NEURONS} --bias stereoset,crows_pairs --data-dir {DATA}": "--bias",
    "tasks --data-dir {DATA} --benchmarks openbookqa": "openbookqa:original",
    "tasks {MODEL}": "model",
    "compare {BASE}": "base",
    "compare {BASE} {BASE}": "base",
    "neurons {MODEL} --neurons {NEURONS} --attributions {RUN}/attributions.safetensors "
    "--positions all": "--attributions",
    "neurons {MODEL} --neurons {NEURONS} --attributions {RUN}/attributions.safetensors "
    "--lam 2": "--attributions",
    "neurons {MODEL} --neurons {NEURONS} --attributions {OTHER_RUN}/attributions.safetensors":
        "--attributions",
    "experiment {MODEL}": "study",
    "experiment nonesuch {MODEL}": "nonesuch",
    **{
        f"experiment methods {{MODEL}} --bank {{BANK}} --data-dir {{DATA}} "
        f"--benchmarks stereoset --also {value}": "--also"
        for value in ("x", "=x", "x=", "x=a,", "x={OTHER_MODEL},x=y", "base={OTHER_MODEL}",
                      "enhancement={OTHER_MODEL}", "a/b={OTHER_MODEL}", "x={HERE}/none",
                      "x={BANK}", "x={DATA}", "'x=a b'")
    },
    "paper {MODEL} --neurons {BANK} --data-dir {DATA} --benchmarks stereoset": "JSON",
    "paper {MODEL} --neurons {HERE}/none --data-dir {DATA} --benchmarks stereoset": "neurons",
    "export {MODEL} --neurons {NEURONS} --lam 2 --push ''": "push",
    "export {MODEL} --neurons {NEURONS} --lam 2 --push a/b/c": "push",
    "export {MODEL} --neurons {NEURONS} --lam 3 --results {RUN}": "--results",
    "export {MODEL} --neurons {NEURONS} --lam 2 --results {BASE}": "--results",
    "export {MODEL} --lam 2": "--neurons",
    "export {MODEL} --neurons {NEURONS}": "--lam",
    "tune {MODEL}": "--neurons",
    "figures": "folder",
    "report": "folder",
    "compare": "folders",
    "nonesuch {MODEL}": "nonesuch",
    "run {MODEL} --nope 3": "--nope",
    "run {MODEL} more": "more",
    "run {MODEL} --seed 1 --seed 2": "--seed",
    "run {MODEL} --tau": "--tau",
}  # fmt: skip
"""Lines whose options do not go together, or are too few or too many -> what must be named."""


NUMBER_CASES = tuple(_options("numbers", NUMBERS))
CHOICE_CASES = tuple(
    _options("choices", {name: (commands, NO_CHOICES) for name, commands in CHOICES.items()})
)
LIST_CASES = tuple(_options("lists and forms", LISTS))
PUSHES = {
    "push {RUN} ''": "repository",
    "push {RUN} 'a b'": "repository",
    "push {RUN} a/b/c": "repository",
    "push {RUN} run": "repository",
    "push {RUN}": "repository",
    "push": "folder",
    "push {RUN} me/run": "HF_HUB_OFFLINE",
    "push {RUN} me/run --public maybe": "maybe",
}
"""The same of what writes into no folder."""
CONTRADICTION_CASES = (
    *(
        BadInput("combinations", f"{line} --out {{HERE}}/out", (word,))
        for line, word in CONTRADICTIONS.items()
    ),
    *(BadInput("combinations", line, (word,)) for line, word in PUSHES.items()),
)
