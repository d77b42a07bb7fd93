"""How a question becomes a prompt: the words around it, chat templates, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from kb_lens.models.hooked import HookedModel


@dataclass(frozen=True)
class PromptTemplate:
    """The words around a question. The default is the paper's."""

    system: str = "You are a useful assistant."
    """The system text; folded into the user's text where a chat template has no system role."""
    instruction: str = "Answer the question with yes or no only."
    """What is asked of the model, a line above the question."""

    def text(self, tokenizer: Any, question: str) -> str:
        """The whole prompt as text, special tokens included."""
        return chat_text(tokenizer, self.system, self._request(question))

    def tokens(self, model: HookedModel, question: str) -> Int[Tensor, "1 pos"]:
        """The prompt's tokens; a chat template brings its own BOS, plain text gets one."""
        ids = request_tokens(model.tokenizer, self._request(question), self.system, chat=True)
        return torch.tensor([ids], device=model.cfg.device)

    def _request(self, question: str) -> str:
        return f"{self.instruction}\nQuestion: {question}"


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how a chat with its model is written."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(tokenizer: Any, system: str, user: str) -> str:
    """A chat up to where the model's answer begins, special tokens included.

    Without a chat template it is plain text that ends in ``Answer:``; without a system role the
    system text begins the user's.
    """
    if not has_template(tokenizer):
        return f"{system}\n\n{user}\nAnswer:"
    try:
        return _render(tokenizer, [("system", system), ("user", user)])
    except Exception as error:  # jinja's, raised by templates without a system role (Gemma)
        if type(error).__name__ not in ("TemplateError", "UndefinedError"):
            raise
        return _render(tokenizer, [("user", f"{system}\n\n{user}")])


def request_tokens(tokenizer: Any, prompt: str, system: str, chat: bool) -> list[int]:
    """A prompt's token ids; a chat template brings its own BOS, plain text gets the tokenizer's."""
    text = chat_text(tokenizer, system, prompt) if chat else prompt
    templated = chat and has_template(tokenizer)
    return tokenizer(text, add_special_tokens=not templated)["input_ids"]


def _render(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
