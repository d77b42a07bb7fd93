"""The options that commands share, and what the words that a user types stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS, load_benchmark, protocols
from kb_lens.benchmarks.data import NoDataError
from kb_lens.figures.export import FORMATS, Width, write_figures
from kb_lens.figures.themes import Theme
from kb_lens.models.loading import EMBEDDED_MODEL
from kb_lens.questions import Question, load_questions

Model = Annotated[
    str,
    typer.Argument(help=f"Hub name, checkpoint folder, .gguf file, or {EMBEDDED_MODEL}."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for everything that is written.")]
Seed = Annotated[int, typer.Option(help="Seed of samples, bootstraps and random controls.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default CUDA if there.")]
DType = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a run with other arguments in --out.")
]
QuestionCount = Annotated[
    int,
    typer.Option(
        "--questions", help="How many, the same number of each dimension and kind; 0 for all."
    ),
]
Dimensions = Annotated[
    str, typer.Option("--dimensions", help="Comma-separated parts of the question bank.")
]
Language = Annotated[str, typer.Option(help="Of the questions: en, es, de or zh.")]
Bank = Annotated[Path | None, typer.Option(help="A question CSV of your own; all its rows.")]
Site = Annotated[Literal["post", "pre"], typer.Option(help="MLP activations that are read.")]
Rule = Annotated[
    Literal["adaptive", "gauss-legendre", "riemann"], typer.Option(help="Quadrature rule.")
]
Steps = Annotated[int | None, typer.Option("--n-steps", help="Nodes of a fixed rule.")]
Tol = Annotated[
    float | None, typer.Option(help="Error bound of the adaptive rule; default 1e-3 in float32.")
]
Tau = Annotated[float, typer.Option(help="Saliency threshold, a share: 0.10 is 10 %.")]
Beta = Annotated[float, typer.Option(help="Consistency threshold, a share of the questions.")]
Style = Annotated[
    Literal["model", "release"], typer.Option(help="Spelling of yes and no that is scored.")
]
Joined = Annotated[
    Literal["union", "intersection", "at-least-two", "pooled"],
    typer.Option(help="How the dimensions' neurons are joined."),
]
Names = Annotated[
    str,
    typer.Option(
        "--benchmarks", help="Comma-separated: NAME[:PROTOCOL][@ITEMS], else --protocol, --limit."
    ),
]
Limit = Annotated[int | None, typer.Option(help="Items a benchmark, balanced; default all.")]
Protocol = Annotated[str, typer.Option(help="How items are scored.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the benchmarks' files.")]
Rows = Annotated[
    int | None, typer.Option("--batch-size", help="Most rows a pass when attributing.")
]
Tokens = Annotated[
    int | None, typer.Option("--batch-tokens", help="Most tokens a pass when evaluating.")
]

DrawnTheme = Annotated[Theme, typer.Option("--theme", help="Of the figures.")]
DrawnWidth = Annotated[
    Width, typer.Option("--width", help="Of the figures: a page's, or a paper's column.")
]


def questions_asked(n: int, dimensions: str, language: str, bank: Path | None) -> list[Question]:
    """A file of the caller's own, whole; or n of the bank, 0 for all."""
    if bank is not None:
        return load_questions(None, path=bank)
    names = [name.strip() for name in dimensions.split(",")]
    return load_questions(n or None, dimension=names, language=language)


def benchmarks_named(
    names: str, limit: int | None, protocol: str, data_dir: Path | None, seed: int
) -> list[Benchmark]:
    """Every benchmark named, as ``NAME[:PROTOCOL][@ITEMS]``."""
    asked = [_spec(text, protocol, limit) for text in names.split(",")]
    if len({one[:2] for one in asked}) < len(asked):
        raise ValueError(f"--benchmarks has a name twice: {names}.")
    return [
        load_benchmark(name, limit=items, protocol=one, data_dir=data_dir, seed=seed)
        for name, one, items in asked
    ]


def _spec(text: str, protocol: str, limit: int | None) -> tuple[str, str, int | None]:
    """Name, protocol and number of items."""
    front, at, items = text.strip().partition("@")
    name, colon, own = front.partition(":")
    if at and not items.isdecimal():
        raise ValueError(f"{text.strip()!r}: after the @ comes a number of items, got {items!r}.")
    if colon and not own:
        raise ValueError(f"{text.strip()!r}: after the : comes a protocol, got nothing.")
    return name, own or protocol, int(items) if at else limit


def benchmarks_available(
    names: str,
    limit: int | None,
    protocol: str,
    data_dir: Path | None,
    seed: int,
    default: Sequence[str] = DEFAULT_BENCHMARKS,
) -> list[Benchmark]:
    """The benchmarks; of the default list those whose data can be had, the others are named."""
    offered = any(protocol in protocols(_spec(one, protocol, limit)[0]) for one in default)
    if names != ",".join(default) or not offered:
        return benchmarks_named(names, limit, protocol, data_dir, seed)
    found = []
    for one in default:
        name = _spec(one, protocol, limit)[0]
        asked = protocol if protocol in protocols(name) else "original"
        try:
            found += benchmarks_named(one, limit, asked, data_dir, seed)
        except NoDataError as error:
            typer.echo(f"LEFT OUT: {name}. {error}", err=True)
    if not found:
        raise ValueError("no benchmark's data can be had: see above.")
    return found


def write_drawn(
    drawn: Mapping[str, Any], folder: Path, formats: Sequence[str] = FORMATS, **form: Any
) -> None:
    """Write figures and say what was written; `form` as `write_figures`."""
    written = write_figures(drawn, folder, formats, **form)
    typer.echo(f"{len(drawn)} figures in {folder}. {written.note}".rstrip())
