"""Trained baselines: measure another checkpoint in place of the model.

Many debiasing methods give new weights: fine-tuning on texts with swapped groups (CDA; Lu et al.,
arXiv 1807.11714; Zmigrod et al., arXiv 1906.04571), preference training (DPO), editing (BiasEdit),
adapters (BiasAware PEFT), LFTF, ReGiFT. Nothing is trained here. You give the checkpoint, and it is
asked the same items in the same words as the model that it came from.

Texts must have the same tokens as for the measured model. So a checkpoint whose tokenizer gives any
other token is refused, and its chat template is replaced by the measured model's. The two results
then differ only by the weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.files import shared_name
from kb_lens.models.chat import token_ids
from kb_lens.models.digests import same_weights
from kb_lens.models.exclusive_use import exclusive_use
from kb_lens.models.hooked import HookedModel, model_name, packing, weights_digest
from kb_lens.models.loading import load_model
from kb_lens.models.placement import placed_like

_PROBE = " The nurse's  naïve café, 3,141 steps away: YES or no?\n"
"""Spaces, case, accents, digits: tokenizers with one vocabulary may still differ in these."""

_MARKUP = re.compile(r"<\S+>|\[[A-Z_]+\]")
"""Markup such as ``<pad>`` and ``[PAD]``."""


@dataclass(frozen=True)
class Trained:
    """Another checkpoint in place of the measured model, such as one that was trained from it."""

    checkpoint: str
    """What `load_model` takes: a folder, a hub name, a GGUF file, a LoRA adapter."""
    weights: str
    """The digest of its weights (`weights_digest`) in the measured model's type."""
    name: str
    """Its name in results, which does not depend on its path."""
    trust_remote_code: bool = False
    """Whether code that comes with the checkpoint may run."""

    @classmethod
    def of(
        cls,
        model: HookedModel,
        checkpoint: str | os.PathLike[str],
        *,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> Trained:
        """A checkpoint that can replace a model; it is loaded once to check that, and freed.

        Args:
            model: The measured model.
            checkpoint: What `load_model` takes.
            name: Its name in results; default the checkpoint's name, of a path its last part.
            trust_remote_code: Whether code that comes with the checkpoint may run.

        Raises:
            ValueError: If it cannot be loaded, its tokenizer gives other tokens than the measured
                model's, or its weights are the measured model's.
        """
        checkpoint = os.fspath(checkpoint)
        with _loaded(model, checkpoint, trust_remote_code) as other:
            weights = weights_digest(other)
        if same_weights(weights, weights_digest(model)):
            raise ValueError(
                f"'{checkpoint}' has the weights of {model_name(model)} itself: there is nothing "
                "to compare. Give the checkpoint that training wrote."
            )
        return cls(checkpoint, weights, name or shared_name(checkpoint), trust_remote_code)

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[HookedModel]:
        """The checkpoint's model, on the measured model's device and in its type.

        Both are in memory at once; when the block ends the other model's weights are freed. Inside,
        measure the model that the block yields; the original model is refused there.

        Yields:
            The other model, as long as the block lasts.

        Raises:
            ValueError: As `of`, or if the checkpoint has changed since.
        """
        name = model_name(model)

        def refuse() -> None:
            raise ValueError(
                f"this block measures '{self.checkpoint}', not {name}: use the model that "
                "the block yields, `with ... as other`."
            )

        with (
            exclusive_use(model) as use,
            use.checked_by(refuse),
            _loaded(model, self.checkpoint, self.trust_remote_code) as other,
        ):
            if not same_weights(digest := weights_digest(other), self.weights):
                raise ValueError(
                    f"'{self.checkpoint}' has other weights ({digest}) than when it was first "
                    f"loaded ({self.weights}): it was written again, or an adapter was merged on "
                    "another kind of device. Start again from Trained.of, on one kind of device."
                )
            yield other

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark itself."""
        return benchmark

    def describe(self) -> dict[str, Any]:
        """The checkpoint's name and its weights."""
        return {
            "checkpoint": self.name,
            "checkpoint_weights": self.weights,
        }


@contextmanager
def _loaded(model: HookedModel, checkpoint: str, trust_remote_code: bool) -> Iterator[HookedModel]:
    """The checkpoint's model, to be asked in the same words as the measured one."""
    other = load_model(checkpoint, trust_remote_code=trust_remote_code, **placed_like(model))
    try:
        _check_tokens(model, other, checkpoint)
        if packing(model) != packing(other):
            raise ValueError(
                f"'{checkpoint}' is {packing(other) or 'not packed'}, but {model_name(model)} is "
                f"{packing(model) or 'not packed'}: the effect of packing would count as the "
                "method's."
            )
        other.tokenizer.chat_template = model.tokenizer.chat_template
        yield other
    finally:
        # free the weights even if the caller keeps a reference to the yielded model
        for parameter in other.parameters():
            parameter.data = parameter.data.new_empty(0)


def _in_texts(tokenizer: Any, tokens: Iterable[str]) -> list[str]:
    """The tokens that can be in a text: all but special ones and markup."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(token for token in set(tokens) - special if not _MARKUP.fullmatch(token))


def _check_tokens(model: HookedModel, other: HookedModel, checkpoint: str) -> None:
    """Refuse a model that gets other tokens for the same text.

    Special tokens and markup that training added, such as ``<pad>``, are in no text.
    """
    ours, theirs = model.tokenizer, other.tokenizer
    ids = theirs.get_vocab()
    moved = [token for token, number in ours.get_vocab().items() if ids.get(token) != number]
    if moved:
        what = f"{len(moved)} tokens, such as {moved[0]!r}, have another id or are missing"
    elif added := _in_texts(theirs, ids.keys() - ours.get_vocab().keys()):
        what = f"{len(added)} tokens of text were added, such as {added[0]!r}"
    elif token_ids(ours, _PROBE) != token_ids(theirs, _PROBE):
        what = "the same text is split, or begun, differently"
    else:
        return
    raise ValueError(
        f"'{checkpoint}' has another tokenizer than {model_name(model)} ({what}): other tokens "
        "would be scored. Give a checkpoint that was trained from the measured model."
    )
