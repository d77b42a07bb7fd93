"""The commands that read saved results and need no model: compare, figures, report, push."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from plotly.graph_objects import Figure

from kb_lens.arguments import did_you_mean
from kb_lens.cli import terminal
from kb_lens.cli.options import ThemeOption, WidthOption, left_out, save_figures, tell
from kb_lens.evaluation.comparison import rank_table, summarize
from kb_lens.figures.export import FORMATS
from kb_lens.figures.folders import draw_folder
from kb_lens.figures.style import model_shown_as
from kb_lens.records.tables import write_csv
from kb_lens.report.push import push_results
from kb_lens.report.write import write_report
from kb_lens.rows import shown
from kb_lens.runs.folder import one_model, read_conditions, several_models
from kb_lens.written import noting

ShownModel = Annotated[str | None, Parameter("--name", help="Name of the model to show.")]


def compare(
    folders: Annotated[
        list[Path], Parameter(help="Folders of `evaluate`, the base first; or one of `run`.")
    ],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="Folder for comparison.csv, ranks.csv.")] = None,
    seed: Annotated[int, Parameter(help="Seed of samples, bootstraps and random controls.")] = 0,
) -> None:
    """Compare saved results: paired differences from the first, and ranks."""
    results = read_conditions(folders)
    if note := several_models(results):
        left_out(note)
    tables = {"comparison": summarize(results, seed=seed), "ranks": rank_table(results, seed=seed)}
    terminal.show_summary(tables["comparison"])
    title = "Ranks by the distance of the metric from its best value"
    terminal.show_table(tables["ranks"], title)
    if out is not None:
        for name, table in tables.items():
            write_csv(out / f"{name}.csv", table, one_model(results))
        tell(f"Written to {out}")


def figures(
    folder: Annotated[
        Path, Parameter(help="A folder of `run`, `identify`, `experiment`, `tune` ...")
    ],
    *,
    out: Annotated[Path | None, Parameter(help="Default: FOLDER/figures.")] = None,
    formats: Annotated[tuple[str, ...], Parameter(help="Comma-separated.")] = FORMATS,
    theme: ThemeOption = "light",
    width: WidthOption = "page",
    only: Annotated[tuple[str, ...], Parameter(help="Names of figures; default all.")] = (),
    metrics: Annotated[
        tuple[str, ...],
        Parameter(help="BENCHMARK.METRIC, a panel each, e.g. stereoset.ss_macro."),
    ] = (),
    name: ShownModel = None,
) -> None:
    """Draw every figure again from saved results."""
    with model_shown_as(name):
        by_name = draw_folder(folder, metrics=metric_keys(metrics))
    with noting(folder):
        save_figures(
            named_figures(by_name, only),
            out or folder / "figures",
            formats,
            theme=theme,
            width=width,
        )


def named_figures(figures: Mapping[str, Figure], names: Sequence[str]) -> dict[str, Figure]:
    """The named figures with their further pages; all figures if none is named.

    Raises:
        ValueError: If no figure has a name.
    """
    pages = {name: [page for page in figures if _is_page_of(page, name)] for name in names}
    if unknown := [name for name, found in pages.items() if not found]:
        raise ValueError(
            f"--only is {shown(unknown[0])}: figures here are {', '.join(figures)}."
            f"{did_you_mean(unknown[0], figures)}"
        )
    chosen = [page for found in pages.values() for page in found]
    return {name: figures[name] for name in chosen or figures}


def _is_page_of(page: str, name: str) -> bool:
    """Whether it is the figure of that name, ``name_2`` and so on."""
    return page == name or re.fullmatch(rf"{re.escape(name)}_\d+", page) is not None


def metric_keys(texts: Sequence[str]) -> list[tuple[str, str]] | None:
    """Metrics from ``BENCHMARK.METRIC``; None if none is named.

    Raises:
        ValueError: If a text has no point.
    """
    pairs = [text.rpartition(".") for text in texts]
    if wrong := [
        text for text, (key, _, metric) in zip(texts, pairs, strict=True) if not key * len(metric)
    ]:
        raise ValueError(
            f"--metrics is {shown(wrong[0])}: expected BENCHMARK.METRIC such as stereoset.ss_macro."
        )
    return [(key, metric) for key, _, metric in pairs] or None


def report(
    folder: Annotated[
        Path, Parameter(help="A folder of `run`, `identify`, `doctor` or `experiment`.")
    ],
    *,
    out: Annotated[Path | None, Parameter(help="The page; default FOLDER/report.html.")] = None,
    name: ShownModel = None,
) -> None:
    """Write one self-contained HTML page with everything in a folder of results."""
    page = out or folder / "report.html"
    try:
        with noting(folder), model_shown_as(name):
            write_report(folder, draw_folder(folder), page)
    except (KeyError, TypeError) as error:  # a table without its columns
        raise ValueError(f"'{folder}' has a file that kb_lens did not write: {error!r}.") from error
    tell(f"Written to {page}")


def push(
    folder: Annotated[
        Path, Parameter(help="Folder of `run`, `identify`, `doctor`, `evaluate` or `experiment`.")
    ],
    repository: Annotated[str, Parameter(help="USER/NAME of the data set.")],
    *,
    public: Annotated[bool, Parameter(help="Make a new data set public.")] = False,
    overwrite: Annotated[bool, Parameter(help="Replace existing files of the data set.")] = False,
) -> None:
    """Upload a folder of results to the Hugging Face hub, as a data set with a card."""
    tell(f"Pushed to {push_results(folder, repository, private=not public, overwrite=overwrite)}")
