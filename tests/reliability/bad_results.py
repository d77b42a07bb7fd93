"""Folders of results that were damaged, edited, or mixed, and the commands that read them."""

import spoils
from bad_inputs import BadInput

STUDY = "studies/right-answers"
JSON_FILES = {
    "run": "run.json neurons.json knowledge.json checks.json evaluations/base/results.json "
    "neurons/gender.json",
    STUDY: "study.json run.json",
    "tune": "tuning.json run.json",
    "effects": "run.json",
}
OTHER_FILES = {
    "run": "attributions.safetensors tokens.csv evaluations/base/items/stereoset.parquet",
    STUDY: "results.parquet",
    "tune": "development.csv test.csv",
    "effects": "effects.safetensors",
    "doctor": "specificity.csv stability.csv control_knowledge.json",
}
"""Folder of the world -> its files."""
READERS = {
    "run": ("report {HERE}/run --out {HERE}/out/page.html",
            "figures {HERE}/run --formats html --out {HERE}/out"),
    STUDY: (f"figures {{HERE}}/{STUDY} --formats html --out {{HERE}}/out",),
    "tune": ("figures {HERE}/tune --formats html --out {HERE}/out",),
    "effects": ("figures {HERE}/effects --formats html --out {HERE}/out",),
    "doctor": ("figures {HERE}/doctor --formats html --out {HERE}/out",
               "report {HERE}/doctor --out {HERE}/out/page.html"),
}  # fmt: skip
"""Folder of the world -> what reads it."""


def _damaged():
    for files, changes in (
        (JSON_FILES, spoils.GARBAGE | spoils.NO_JSON),
        (OTHER_FILES, spoils.GARBAGE),
    ):
        for folder, names in files.items():
            for number, name in enumerate(names.split()):
                # All files share their readers: each is tried with every third kind of damage.
                for reader in READERS[folder][:1]:
                    for kind, change in list(changes.items())[number % 3 :: 3]:
                        spoil = spoils.copied(folder, folder, spoils.contents(name, change))
                        yield _case("damaged results", reader, name, kind, spoil)
                    spoil = spoils.copied(folder, folder, spoils.as_folder(name))
                    yield _case("damaged results", reader, name, "folder", spoil)


def _case(kind, reader, name, what, spoil, *words):
    file = name.rpartition("/")[2]
    return BadInput(kind, f"{reader}  # {name}: {what}", words or (file,), spoil)


DAMAGED_CASES = tuple(_damaged())


REPORT, FIGURES = READERS["run"]
RESULTS = "evaluations/base/results.json"
METRIC = ("benchmarks", "stereoset", "icat")
WRONG = {
    "NaN": float("nan"), "Infinity": float("inf"), "true": True, "text": "x", "null": None,
    "list": [], "object": {}, "lost": ..., "huge": 10**400, "1e39": 1e39, "-1": -1,
}  # fmt: skip
"""Values that hardly any key of a JSON file may have."""
EDITS = {
    "neurons.json": {
        ("n_layers",): "NaN Infinity true text null list lost -1",
        ("d_mlp",): "NaN true text null lost -1",
        ("neurons",): "NaN true text null object lost",
        ("neurons", 0, 0): "NaN true text null list huge -1",
        ("site",): "true text null lost",
        ("model",): "true null list lost",
        ("fingerprint",): "true null list lost text",
        ("tau",): "NaN true text list 1e39 -1",
        ("format",): "true text null lost",
        ("unknown key",): "true text",
    },
    "knowledge.json": {
        ("table",): "NaN true text null object lost",
        ("table", 0, "p_yes"): "NaN Infinity true text null lost -1 1e39",
        ("table", 0, "answer"): "true text null lost",
        ("table", 0, "right"): "text null lost list",
        ("table", 0, "lesson"): "text null list",
        ("forms",): "true text",
        ("fingerprint",): "text true",
        ("spelling",): "true text null lost list",
    },
    "checks.json": {
        (0, "status"): "true null lost list",
        (0, "finding"): "true null lost",
        (0, "fingerprint"): "text true",
    },
    RESULTS: {
        ("benchmarks",): "true text null list lost",
        (*METRIC, "value"): "NaN Infinity true text null lost huge 1e39 -1",
        (*METRIC, "n"): "NaN true text null lost",
        (*METRIC, "low"): "true text lost",
        ("details", "stereoset", "benchmark"): "true text null lost",
        ("details", "stereoset", "protocol"): "true text null lost",
        ("details", "stereoset", "digest"): "true text list",
        ("condition", "role"): "true text",
        ("fingerprint",): "text true",
        ("model",): "true null list lost",
    },
    "run.json": {
        ("command",): "true null list lost",
        ("arguments",): "true text null list lost",
        ("model",): "true text list lost",
        ("model", "fingerprint"): "true",
        ("seconds",): "true text list",
    },
}
"""File of a run -> keys -> which of `WRONG` they may not have."""
TABLES = {
    "tokens.csv": {
        "a layer that is a text": lambda t: t.assign(layer="x"),
        "a layer of NaN": lambda t: t.assign(layer=float("nan")),
        "no layer": lambda t: t.drop(columns="layer"),
        "another's": lambda t: t.assign(fingerprint="00000000-00000000"),
        "two models'": lambda t: t.assign(fingerprint=[*t["fingerprint"][1:], "00000000-00000000"]),
        "a side that is none": lambda t: t.assign(side="upwards"),
        "an infinite rank": lambda t: t.assign(rank=float("inf")),
        "half a layer": lambda t: t.assign(layer=0.5),
    },
}
PARQUETS = {
    "a value edited": lambda t: t.assign(logprob_stereotype=0.0),
    "NaN": lambda t: t.assign(logprob_stereotype=float("nan")),
    "infinite": lambda t: t.assign(logprob_stereotype=float("inf")),
    "texts": lambda t: t.assign(logprob_stereotype="x"),
    "truths": lambda t: t.assign(logprob_stereotype=True),
    "a row lost": lambda t: t.iloc[1:],
    "a row twice": lambda t: t.iloc[[0, *range(len(t))]],
    "no rows": lambda t: t.iloc[:0],
    "a column lost": lambda t: t.drop(columns="logprob_stereotype"),
    "another kind": lambda t: t.assign(kind="x"),
}
TENSORS = {
    "attributions.safetensors": {
        "NaN": lambda t: t | {"answer_prob": t["answer_prob"] * float("nan")},
        "infinite scores": lambda t: t | {"scores": t["scores"] / 0},
        "a question lost": lambda t: t | {"scores": t["scores"][1:].contiguous()},
        "a layer lost": lambda t: t | {"scores": t["scores"][:, 1:].contiguous()},
        "integers": lambda t: t | {"scores": t["scores"].int()},
        "a tensor lost": lambda t: {name: t[name] for name in t if name != "scores"},
        "a tensor more": lambda t: t | {"more": t["scores"].clone()},
        "flat": lambda t: t | {"scores": t["scores"].flatten()},
    },
}
HEADERS = ("", "null", "[]", "{}", "{", "7", "NaN", "[" * 100_000, '"x"')


def _edited():
    for name, keys in EDITS.items():
        for number, (path, kinds) in enumerate(keys.items()):
            for kind in kinds.split()[number % 2 :: 2] or kinds.split():
                change = spoils.edited(name, *path, value=WRONG[kind])
                what = f"{'.'.join(map(str, path))} {kind}"
                spoil = spoils.copied("run", "run", change)
                yield _case("edited results", REPORT, name, what, spoil)


def _changed_tables():
    items = "evaluations/base/items/stereoset.parquet"
    for name, changes, damage in (
        *((name, changes, spoils.table) for name, changes in TABLES.items()),
        *((name, changes, spoils.tensors) for name, changes in TENSORS.items()),
        (items, PARQUETS, spoils.parquet),
    ):
        for what, change in changes.items():
            spoil = spoils.copied("run", "run", damage(name, change))
            yield _case("edited results", FIGURES, name, what, spoil)
    name = "attributions.safetensors"
    for key in ("settings", "questions", "format"):
        for text in HEADERS:
            spoil = spoils.copied("run", "run", spoils.header(name, key, text))
            yield _case("edited results", FIGURES, name, f"{key} {text[:9]}", spoil)


MIXED = (
    "run.json", "neurons.json", "knowledge.json", "checks.json", "tokens.csv",
    "attributions.safetensors", "evaluations/base", "evaluations/lambda 2",
    "evaluations/random lambda 2", "neurons",
)  # fmt: skip
"""Of a run's folder what may come from another model's run."""


def _mixed():
    for name in MIXED:
        spoil = spoils.copied("run", "run", spoils.taken(name, "other_run"))
        yield BadInput("two models", f"{REPORT}  # {name}", ("model",), spoil)
    for name in ("run.json", "results.json", "items"):
        spoil = spoils.copied("enhanced", "mixed", spoils.taken(name, "base"))
        if name != "run.json":
            line = "compare {BASE} {HERE}/mixed --out {HERE}/out"
            yield BadInput("two models", f"{line}  # {name}", ("results.json",), spoil)


EDITED_CASES = (*_edited(), *_changed_tables())
MIXED_CASES = tuple(_mixed())
