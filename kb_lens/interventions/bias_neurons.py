"""CRISPR, a baseline: remove the neurons that add most to biased answers.

Yang et al., "Mitigating Biases for Instruction-following Language Models via Bias Neurons
Elimination", arXiv 2311.09627:

1. On items that are not measured, attribute a biased answer to every neuron.
2. Average over items, and over several wordings of the instruction.
3. Set the n highest neurons to 0: ``Scaling(neurons, 0.0)``.

Differences. The paper takes its items from its benchmarks' data, and takes as biased the answer
that the model confuses with the right one. Here no benchmark is used: the items are the bank's
statements, and the biased answer is yes to a stereotype and no to its denial. Both are asked;
otherwise neurons that say yes to any question would come first. The attribution is this package's
integral over the path at the last prompt position (`kb_lens.attribution`). The paper multiplies
activation and gradient and aggregates over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kb_lens.arguments import all_texts, check_count
from kb_lens.attribution.attribute import attribute
from kb_lens.attribution.attributions import Attributions
from kb_lens.interventions.steering import StatementPair
from kb_lens.models.hooked import HookedModel
from kb_lens.models.prompts import PromptTemplate
from kb_lens.neurons.names import Neuron
from kb_lens.neurons.sets import NeuronSet
from kb_lens.questions import Question

_ASKED = "Is the following statement true? {}"


@dataclass(frozen=True)
class BiasNeuronSettings:
    """What CRISPR depends on apart from the statements."""

    n_neurons: int = 10
    """How many neurons are removed; the paper finds that few are enough, at least three."""
    instructions: tuple[str, ...] = (
        "Answer the question with yes or no only.",
        "Read what is asked and reply with a single word, yes or no.",
    )
    """Wordings of the instruction, over which scores are averaged."""

    def __post_init__(self) -> None:
        check_count("n_neurons", self.n_neurons)
        if not all_texts(self.instructions):
            raise ValueError(f"instructions is {self.instructions!r}: give a tuple of texts.")

    def templates(self, template: PromptTemplate | None = None) -> list[PromptTemplate]:
        """The prompt template for each instruction."""
        template = PromptTemplate() if template is None else template
        return [replace(template, instruction=instruction) for instruction in self.instructions]


def bias_neurons(
    model: HookedModel,
    pairs: Sequence[StatementPair],
    *,
    settings: BiasNeuronSettings | None = None,
    template: PromptTemplate | None = None,
    **options: Any,
) -> NeuronSet:
    """The neurons that add most to biased answers.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        pairs: Biased and fair statements, see `load_statements`.
        settings: How many neurons, and the instructions.
        template: The other words around a question; default those of the KnowBias paper.
        options: Further arguments of `attribute` (``site``, ``cache_dir``, ``progress`` ...); not
            ``knowledge``, which belongs to one wording.

    Raises:
        ValueError: As `attribute` and `top_neurons`.
    """
    if options.get("knowledge") is not None:
        raise ValueError("knowledge belongs to one wording, but several are asked: leave it out.")
    settings = BiasNeuronSettings() if settings is None else settings
    questions = statement_questions(pairs)
    found: list[Attributions] = []
    for asked in settings.templates(template):
        found.append(attribute(model, questions, template=asked, **options))
        # scores of different answer tokens cannot be averaged: all use the first wording's
        options.setdefault("spelling", found[0].settings.spelling)
    return top_neurons(found, settings.n_neurons)


def statement_questions(pairs: Sequence[StatementPair]) -> list[Question]:
    """A question for each statement, whether it is true, with the biased answer as the answer."""
    questions: list[Question] = []
    for pair in pairs:
        biased, fair = _ASKED.format(pair.biased), _ASKED.format(pair.fair)
        questions.append(Question(biased, "yes", pair.dimension, concept=pair.concept))
        questions.append(Question(fair, "no", pair.dimension, concept=pair.concept))
    return questions


def top_neurons(found: Sequence[Attributions], n_neurons: int) -> NeuronSet:
    """The neurons with the highest mean score over all rows of all attributions.

    Args:
        found: Attributions on one model, at one site and objective, such as one for each wording.
        n_neurons: How many.

    Raises:
        ValueError: If the attributions do not belong together, or fewer neurons have a mean score
            above 0.
    """
    settings = found[0].settings
    for name in ("fingerprint", "dtype", "site", "objective", "spelling"):
        values = [getattr(attributions.settings, name) for attributions in found]
        if any(value != values[0] for value in values):
            raise ValueError(f"cannot average these attributions: {name} is {values}.")
    mean = torch.cat([attributions.scores for attributions in found]).mean(0)
    if (n_positive := int((mean > 0).sum())) < n_neurons:
        raise ValueError(
            f"n_neurons is {n_neurons}, but only {n_positive} neurons add to the biased answers: "
            "take fewer."
        )
    n_layers, d_mlp = mean.shape
    highest = mean.flatten().topk(n_neurons).indices.tolist()
    return NeuronSet(
        neurons=tuple(Neuron(*divmod(index, d_mlp)) for index in highest),
        model=settings.model,
        fingerprint=settings.fingerprint,
        form=settings.form,
        site=settings.site,
        n_layers=n_layers,
        d_mlp=d_mlp,
        origin=f"CRISPR, the {n_neurons} highest mean scores of biased answers over "
        f"{len(found[0])} questions and {len(found)} instructions",
    )
