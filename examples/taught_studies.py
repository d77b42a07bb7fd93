"""The effects of enhancement on the taught models: ``python examples/taught_studies.py``.

Reads the folders of these commands, for each seed S of `teach.py`:

    kb-lens run out/taught/seed-S --out out/taught-studies/S/run
    kb-lens experiment lambda out/taught/seed-S --out out/taught-studies/S

and writes ``taught.parquet`` (a row per seed, set, lambda, benchmark and headline metric),
``at_lambda_2.parquet`` (gains towards the best value, with intervals, and the random sets' gains)
and the figure. Random sets: of like influence in every layer, from the study and the run; and the
same sets at the same damage, from the run, shown at the lambda that they are compared with. Values
that the study does not have are from the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.evaluation.results import conditions_of
from kb_lens.figures.export import write_figures
from kb_lens.figures.marks import curve
from kb_lens.figures.style import COLOURS, GREY, finish, label
from kb_lens.runs.folder import RunFolder
from kb_lens.studies.tables import Experiment

PANELS: dict[tuple[str, str], tuple[str, float | None]] = {
    ("stereoset", "icat"): ("StereoSet icat, points", 100.0),
    ("crows_pairs", "stereotype_share"): ("CrowS-Pairs stereotypes, %", 50.0),
    ("bbq_religion", "s_AMB"): ("BBQ religion s_AMB, points", 0.0),
    ("bbq_age", "s_AMB"): ("BBQ age s_AMB, points", 0.0),
    ("openbookqa", "acc"): ("OpenBookQA accuracy, %", 100.0),
    ("plain_text", "logprob_per_token"): ("Plain text, nats a token", None),
}
"""The panels: benchmark and metric -> the panel's name and the best value; None: higher is
better."""
KNOW, INFLUENCE, DAMAGE = "know-bias", "random, like influence", "random, same damage"


def gathered(folder: Path) -> pd.DataFrame:
    """All values of one seed: neurons, draw, lam, benchmark, metric, value, differences.

    Raises:
        ValueError: If a study or a run is missing.
    """
    study = Experiment.load(folder / "lambda").tables["results"]
    study = study.loc[study["role"].eq("base") | study["lam"].ne(1)]
    names = {"base": "base", "method": KNOW, "control": INFLUENCE}
    neurons = [names[role] for role in study["role"]]
    study = study.assign(neurons=neurons, lam=study["lam"].fillna(1.0))
    path = folder / "run/summary.csv"
    if not path.is_file():
        raise ValueError(f"'{path}' does not exist: has `kb-lens run` finished?")
    run = pd.read_csv(path)
    sets = _sets(folder / "run")
    labels = [sets[condition] for condition in run["condition"]]
    run = run.assign(neurons=[name for name, _ in labels], lam=[lam for _, lam in labels])
    run = run.assign(set="run").drop(columns="condition")
    only_here = ~run["benchmark"].isin(study["benchmark"]) | run["neurons"].eq(DAMAGE)
    table = pd.concat([study, run.loc[only_here]], ignore_index=True)
    return table.set_index(["benchmark", "metric"]).loc[list(PANELS)].reset_index()


def _sets(folder: Path) -> dict[str, tuple[str, float]]:
    """Condition of a run -> the neurons that it scales, and the lambda at which it is shown."""
    conditions = conditions_of(RunFolder.load(folder).results)
    factors = {
        name: float((info.intervention or {"lam": 1.0})["lam"]) for name, info in conditions.items()
    }
    sets: dict[str, tuple[str, float]] = {}
    for name, info in conditions.items():
        if info.control_of is None:
            sets[name] = ("base" if info.role == "base" else KNOW, factors[name])
        else:
            lam = factors[info.control_of]
            sets[name] = (INFLUENCE if factors[name] == lam else DAMAGE, lam)
    return sets


def at(table: pd.DataFrame, lam: float) -> pd.DataFrame:
    """Gains towards the best value at one lambda: a row per seed and panel.

    Returns:
        seed, benchmark, metric, base, value, n, difference with its interval, gain (how much nearer
        the value came to the best one), and number, mean, least and largest of the random sets'
        gains.
    """
    base = table.loc[table["neurons"].eq("base")].set_index(["seed", "benchmark", "metric"])
    rows = []
    parts: Any = table.loc[table["lam"].eq(lam)].groupby(["seed", "benchmark", "metric"])
    for key, part in parts:
        before, (_, best) = float(base.loc[key, "value"]), PANELS[key[1:]]
        gains = part["value"] - before
        if best is not None:
            gains = abs(before - best) - (part["value"] - best).abs()
        own, random = part["neurons"].eq(KNOW), part["neurons"].isin([INFLUENCE, DAMAGE])
        names = ["value", "n", "difference", "difference_low", "difference_high"]
        about = dict(zip(("seed", "benchmark", "metric"), key, strict=True)) | {"base": before}
        of_random = gains[random].agg(["size", "mean", "min", "max"]).add_prefix("random_")
        mine = part.loc[own, names].iloc[0].to_dict() | {"gain": gains[own].item()}
        rows.append(about | mine | dict(of_random))
    return pd.DataFrame(rows)


def taught_figure(table: pd.DataFrame) -> go.Figure:
    """Every panel's value against lambda: the models' know-bias and random neurons."""
    lams = sorted(table["lam"].unique())
    titles = [name for name, _ in PANELS.values()]
    figure = make_subplots(3, 2, subplot_titles=titles, vertical_spacing=0.1)
    styles: dict[str, dict[str, Any]] = {
        INFLUENCE: {"color": GREY, "width": 1},
        DAMAGE: {"color": GREY, "width": 1, "dash": "dot"},
        KNOW: {"color": COLOURS[0], "width": 2},
    }
    for i, (key, (_, best)) in enumerate(PANELS.items()):
        where: dict[str, Any] = {"row": i // 2 + 1, "col": i % 2 + 1}
        part = table.loc[table["benchmark"].eq(key[0]) & table["metric"].eq(key[1])]
        if best is not None and part["value"].min() <= best <= part["value"].max():
            line = curve([1, part["lam"].max()], [best] * 2, color=COLOURS[2], dash="dot")
            figure.add_trace(line.update(showlegend=False), **where)
        starts = part.loc[part["neurons"].eq("base")].set_index("seed", drop=False)
        for name, style in styles.items():
            several: Any = part.loc[part["neurons"].eq(name)].groupby(["seed", "set"])
            for j, ((seed, _), one) in enumerate(several):
                whole = pd.concat([starts.loc[[seed]], one]).sort_values("lam")
                line = curve(whole["lam"], whole["value"], name, **style)
                line.update(showlegend=i == j == 0, legendgroup=name)
                line.update(hovertemplate=f"seed {seed}, lambda %{{x}}: %{{y:.2f}}")
                figure.add_trace(line, **where)
        figure.update_xaxes(title_text="lambda" if i > 3 else None, showgrid=False, **where)
        figure.update_xaxes(tickvals=lams, range=[0.95, lams[-1] + 0.05], **where)
    layout: Any = figure.layout
    for annotation in layout.annotations:
        annotation.update(label(annotation.text))
    n = table["seed"].nunique()
    counts = table.loc[table["neurons"].eq("base")].groupby("benchmark", sort=False)["n"].max()
    items = ", ".join(f"{name} {int(n_items)}" for name, n_items in counts.items())
    return finish(
        figure,
        "What does the factor do to models that know?",
        f"Models taught with {n} seeds. Blue: a model's know-bias neurons; grey: random neurons. "
        f"Green: the best value. n: {items}.",
        height=790,
        top=60,
        legend_y=1.05,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="The taught models' studies side by side.")
    parser.add_argument("--studies", type=Path, default=Path("out/taught-studies"))
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--out", type=Path, default=Path("out/taught-studies"))
    given = parser.parse_args(arguments)
    tables = [gathered(given.studies / seed).assign(seed=seed) for seed in given.seeds]
    table = pd.concat(tables, ignore_index=True)
    table.to_parquet(given.out / "taught.parquet", index=False)
    gains = at(table, 2.0)
    gains.to_parquet(given.out / "at_lambda_2.parquet", index=False)
    sys.stdout.write(gains.round(2).to_string(index=False) + "\n")
    write_figures({"taught_lambda": taught_figure(table)}, given.out, ("html", "png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
