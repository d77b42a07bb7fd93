"""A few neurons, each changed alone and all together: what the model says next, and a benchmark.

1. Read the next-token distribution after each prompt, and the benchmark's results, of the unchanged
   model.
2. Read the same with each neuron's activation times each factor, and with all neurons scaled.
3. Compare, with an interval: over the prompts, or paired over the benchmark's clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.arguments import check_texts
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.titles import metric_title
from kb_lens.checks.activations import check_lengths, token_text
from kb_lens.checks.neuron_effects import check_effects
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.positions import Positions, check_positions
from kb_lens.interventions.scaling import scale_neurons
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import HookedModel, model_name
from kb_lens.neurons.sets import Neurons, NeuronSet, neurons_of
from kb_lens.progress import progress_bar
from kb_lens.resampling import Statistics, means
from kb_lens.statistics import DEFAULT_RESAMPLES, bootstrap, check_resampling
from kb_lens.user_warnings import each_once

_NEXT_TOKEN = {
    "kl": "KL divergence of the next token, nats",
    "top_token_changed": "Likeliest next token is another, % of prompts",
}
"""The measures on prompts, and their axis titles."""
_COLUMNS = ("measure", "value", "low", "high", "n", "clusters")
_OF_A_PROMPT = ("kl", "before", "p_before", "p_of_before", "after", "p_after", "top_token_changed")


@dataclass(frozen=True, eq=False)
class AblationStudy:
    """What each neuron does, alone and together with the others."""

    table: pd.DataFrame
    """neuron (its name, or ``all N``), lam, measure, value, low, high, n, clusters. Measures on the
    prompts are ``kl`` (nats) and ``top_token_changed`` (%), of the changed model against the base;
    the others are differences (changed minus base) of the benchmark's metrics."""
    prompts: pd.DataFrame
    """One row per neuron, factor and prompt: neuron, lam, prompt, kl, and the likeliest next token
    with its probability, before and after: before, p_before, after, p_after. p_of_before is the
    changed model's probability of the token ``before``."""
    labels: Mapping[str, str]
    """The measures to look at first, and their axis titles."""
    rests_on: str
    """The model, the site, the prompts and the benchmark, for a caption."""


@as_the_checkpoint
@each_once()
def ablation_study(
    model: HookedModel,
    neurons: Neurons,
    *,
    prompts: Sequence[str] = (),
    benchmark: Benchmark | None = None,
    lams: Sequence[float] = (0.0, 2.0),
    positions: Positions = "all",
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    progress: bool = True,
) -> AblationStudy:
    """Change each neuron alone, and all together; measure the next token and a benchmark.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set, at its site, or names, ``["L26.N1371", (28, 1095)]``, at site ``post``.
        prompts: The next-token distribution after each is compared. Taken as they are: write a
            chat out as its template writes it.
        benchmark: What `load_benchmark` returned; measured once per neuron and factor.
        lams: The factors: 0 ablates, 1 changes nothing.
        positions: As in `scale_neurons`.
        n_bootstrap: Resamples for the intervals.
        seed: Seed of the resampling.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the set is empty or belongs to another model, a factor is not finite or given
            twice, there is neither a prompt nor a benchmark, or a prompt is given twice or is
            longer than the model's context.
    """
    members = neurons_of(model, neurons)
    check_effects(lams, None, model.cfg.dtype)
    check_positions(positions)
    check_resampling(n_bootstrap, seed)
    measured = _Measured(model, prompts, benchmark, n_bootstrap, seed)
    before = measured.take()
    rows: list[pd.DataFrame] = []
    by_prompt: list[pd.DataFrame] = []
    trials = list(_trials(members, lams))
    for name, changed, lam in progress_bar(trials, desc="changing neurons", shown=progress):
        with scale_neurons(model, changed, lam=lam, positions=positions):
            after = measured.take()
        key = {"neuron": name, "lam": float(lam)}
        of_prompts, summary = measured.compared(before, after)
        by_prompt.append(of_prompts.assign(**key))
        rows.append(summary.assign(**key))
    return AblationStudy(
        table=_joined(rows, ["neuron", "lam", *_COLUMNS]),
        prompts=_joined(by_prompt, ["neuron", "lam", "prompt", *_OF_A_PROMPT]),
        labels=measured.labels(),
        rests_on=measured.describe(members, positions),
    )


class _Taken(NamedTuple):
    """What is read from the model in one state."""

    next_tokens: list[Float[Tensor, " d_vocab"]]
    """Log-probabilities of the next token after each prompt."""
    result: EvaluationResult | None
    """The result on the benchmark, if there is one."""


@dataclass(frozen=True)
class _Measured:
    """What the study measures."""

    model: HookedModel
    prompts: Sequence[str]
    benchmark: Benchmark | None
    n_bootstrap: int
    seed: int

    def __post_init__(self) -> None:
        check_texts(self.prompts)
        if not self.prompts and self.benchmark is None:
            raise ValueError("there is nothing to measure: give prompts, a benchmark or both.")
        if len({*self.prompts}) < len(self.prompts):
            raise ValueError("a prompt is given twice: give each prompt once.")
        if self.prompts:
            check_lengths(self.model, self._tokens(), at_least=1)

    def _tokens(self) -> list[list[int]]:
        return [token_ids(self.model.tokenizer, prompt) for prompt in self.prompts]

    def take(self) -> _Taken:
        """Read the model as it is now."""
        result = None
        if self.benchmark is not None:
            result = evaluate(
                self.model,
                self.benchmark,
                progress=False,
                n_bootstrap=self.n_bootstrap,
                seed=self.seed,
            )
        return _Taken([next_token(self.model, ids) for ids in self._tokens()], result)

    def compared(self, before: _Taken, after: _Taken) -> tuple[pd.DataFrame, pd.DataFrame]:
        """What changed: a row per prompt, and a row per measure with its interval."""
        of_prompts = pd.DataFrame(columns=["prompt", *_OF_A_PROMPT])
        summary: list[pd.DataFrame] = []
        if self.prompts:
            of_prompts = _compared(self.model, before.next_tokens, after.next_tokens)
            of_prompts = of_prompts.assign(prompt=list(self.prompts))
            summary.append(_summary(of_prompts, self.n_bootstrap, self.seed))
        if before.result is not None and after.result is not None:
            moved = compare(
                before.result, after.result, n_bootstrap=self.n_bootstrap, seed=self.seed
            )
            summary.append(moved.rename(columns={"difference": "value", "metric": "measure"}))
        return of_prompts, pd.concat(summary, ignore_index=True)

    def labels(self) -> dict[str, str]:
        """The labels of the `AblationStudy`."""
        labels = dict(_NEXT_TOKEN) if self.prompts else {}
        if self.benchmark is not None:
            formulas = self.benchmark.formulas
            for name in formulas.headline:
                unit = formulas.describe(name).unit.replace("%", "points")
                labels[name] = f"Change of {metric_title(name)}, {unit}"
        return labels

    def describe(self, members: NeuronSet, positions: Positions) -> str:
        """The text for a caption."""
        parts = [model_name(self.model), f"site {members.site}", f"{positions} positions"]
        if self.prompts:
            parts.append(f"{len(self.prompts)} prompts")
        if self.benchmark is not None:
            parts.append(f"{len(self.benchmark.items)} items of {self.benchmark.key}")
        return ", ".join(parts)


def _joined(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """One table with its columns in this order."""
    return pd.concat(tables, ignore_index=True).reindex(columns=list(columns))


def _trials(members: NeuronSet, lams: Sequence[float]) -> Iterator[tuple[str, NeuronSet, float]]:
    """Each neuron alone, then all together, by each factor."""
    alone = [(neuron.name, replace(members, neurons=(neuron,))) for neuron in members]
    together = [(f"all {len(members)}", members)] if len(members) > 1 else []
    for name, changed in (*alone, *together):
        for lam in lams:
            yield name, changed, lam


@torch.no_grad()
def next_token(model: HookedModel, ids: Sequence[int]) -> Float[Tensor, " d_vocab"]:
    """Log-probabilities of the token after a prompt, float64, on the CPU."""
    # one prompt at a time: in a padded batch the last position is not the end of every prompt
    tokens = torch.tensor([ids], device=model.cfg.device)
    logits = model(tokens, return_type="logits")[0, -1].double()
    return logits.log_softmax(-1).cpu()


def _compared(
    model: HookedModel, before: Sequence[Tensor], after: Sequence[Tensor]
) -> pd.DataFrame:
    """One row per prompt."""
    rows: list[dict[str, object]] = []
    for base, changed in zip(before, after, strict=True):
        top, new_top = int(base.argmax()), int(changed.argmax())
        rows.append(
            {
                "kl": float((base.exp() * (base - changed)).sum().clamp_min(0.0)),
                "before": token_text(model, top),
                "p_before": float(base[top].exp()),
                "p_of_before": float(changed[top].exp()),
                "after": token_text(model, new_top),
                "p_after": float(changed[new_top].exp()),
                "top_token_changed": 100.0 * (top != new_top),
            }
        )
    return pd.DataFrame(rows)


def _summary(compared: pd.DataFrame, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """The means over the prompts, with their intervals."""
    groups = pd.DataFrame({"all": np.ones(len(compared), dtype=bool)})
    statistics = Statistics(compared[[*_NEXT_TOKEN]].assign(n=1.0), groups)
    measured = bootstrap(statistics, means, n_bootstrap=n_bootstrap, seed=seed)
    rows = [
        {"measure": name, "value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
        for name, mean in zip(_NEXT_TOKEN, measured.values(), strict=True)
    ]
    return pd.DataFrame(rows).assign(clusters=len(compared))
