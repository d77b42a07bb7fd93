"""The content of a neuron's card: its tokens, its dose-response, the texts that activate it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kb_lens.checks.activations import activations
from kb_lens.checks.effects import NeuronEffects
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.checks.neuron_meaning import promoted_tokens, top_prompts
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.sets import Neurons, neurons_of
from kb_lens.questions import Question, load_questions
from kb_lens.records.tables import Kind, check_columns, read_parquet, write_parquet

CARD_LAMS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
"""The factors of a card's dose-response."""
_BEFORE, _BEHIND = 24, 6
"""Tokens shown before and after a text's peak; a causal model has read only those before."""
_FILES = ("effects.safetensors", "tokens.parquet", "excerpts.parquet")
_NUMBERED: dict[str, Kind] = {"layer": "count", "index": "count", "rank": "count", "token": "text"}
_TOKENS: dict[str, Kind] = {**_NUMBERED, "side": "text", "logit": "number"}
_EXCERPTS: dict[str, Kind] = {
    **_NUMBERED,
    "peak": "number",
    "position": "count",
    "activation": "number",
}


@dataclass(frozen=True, eq=False)
class NeuronCards:
    """The content of the cards of some neurons."""

    effects: NeuronEffects
    """The effects of scaling each neuron at the last position on the right answers."""
    tokens: pd.DataFrame
    """The tokens that each neuron promotes and suppresses: `promoted_tokens`."""
    excerpts: pd.DataFrame
    """The texts of the largest activations around their peaks, a row per token: layer, index, rank
    (of the text, from 1), peak, position, token, activation."""
    texts: str
    """A description of the texts that were read."""
    by_size: bool = True
    """Whether the texts were chosen by the size of the activation; in older files: by its value."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the three files of a folder."""
        effects, tokens, excerpts = (Path(folder) / name for name in _FILES)
        self.effects.save(effects)
        write_parquet(tokens, self.tokens, {})
        write_parquet(excerpts, self.excerpts, {"texts": self.texts, "by_size": self.by_size})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> NeuronCards:
        """Read what `save` wrote; ValueError if it is damaged."""
        effects, tokens_path, excerpts_path = (Path(folder) / name for name in _FILES)
        tokens, _ = read_parquet(tokens_path)
        check_columns(tokens, _TOKENS, tokens_path)
        excerpts, about = read_parquet(excerpts_path)
        check_columns(excerpts, _EXCERPTS, excerpts_path)
        about = about if isinstance(about, dict) else {}
        texts, by_size = str(about.get("texts", "")), about.get("by_size") is True
        return cls(NeuronEffects.load(effects), tokens, excerpts, texts, by_size)


def read_cards(
    model: HookedModel,
    neurons: Neurons,
    *,
    texts: Sequence[str] | None = None,
    questions: Sequence[Question] | None = None,
    lams: Sequence[float] = CARD_LAMS,
    k: int = 8,
    n_texts: int = 5,
    progress: bool = True,
) -> NeuronCards:
    """Find the content of the cards of some neurons; the texts are read once for all neurons.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set, at its site, or names.
        texts: Texts in which to look for the largest activations, by size; default the bank's
            questions and the passages of plain text.
        questions: Questions for the dose-responses; default nine of the bank.
        lams: The factors, at the last position.
        k: Tokens per side.
        n_texts: Texts per neuron.
        progress: Whether to show progress bars.

    Raises:
        ValueError: As `promoted_tokens`, `neuron_effects` and `top_prompts`.
    """
    members = neurons_of(model, neurons)
    asked = load_questions(9) if questions is None else questions
    effects = neuron_effects(model, members, asked, lams=lams, progress=progress)
    peaks = top_prompts(model, members, texts, n_texts, progress=progress)
    excerpts = _excerpts(model, neurons, _largest_by_size(peaks, n_texts))
    read = "question bank, plain passages" if texts is None else f"{len(texts)} given"
    return NeuronCards(effects, promoted_tokens(model, members, k), excerpts, read)


def _largest_by_size(peaks: pd.DataFrame, n_texts: int) -> pd.DataFrame:
    """Of both sides of `top_prompts`, each neuron's texts with the largest absolute activations."""
    ordered = peaks.sort_values("activation", key=abs, ascending=False, kind="stable")
    once = ordered.drop_duplicates(["layer", "index", "text"])
    ranked = once.assign(rank=once.groupby(["layer", "index"]).cumcount() + 1)
    return pd.DataFrame(ranked.loc[ranked["rank"] <= n_texts])


def _excerpts(model: HookedModel, neurons: Neurons, peaks: pd.DataFrame) -> pd.DataFrame:
    """The tokens around each peak, with the activations of the peak's neuron."""
    pieces: list[pd.DataFrame] = []
    for text, found in peaks.groupby("text", sort=False):
        table = activations(model, neurons, str(text), progress=False)
        for peak in found.to_dict("records"):
            around = (peak["position"] - _BEFORE, peak["position"] + _BEHIND)
            own = table["layer"].eq(peak["layer"]) & table["index"].eq(peak["index"])
            rows = table.loc[own & table["position"].between(*around)]
            pieces.append(rows.assign(rank=peak["rank"], peak=peak["activation"]))
    columns = [*_EXCERPTS]
    table = pd.concat(pieces) if pieces else pd.DataFrame(columns=columns)
    ordered = table.sort_values(["layer", "index", "rank", "position"])
    return pd.DataFrame(ordered, columns=columns).reset_index(drop=True)
