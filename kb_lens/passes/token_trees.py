"""Many texts in one forward pass without computing a token twice.

Texts that are scored together begin alike: all share an instruction, and the options of an item
share its prompt. The common beginning runs once and is kept as keys and values. The rest of several
items runs as one row, a prefix tree: every token is one position that reads the shared prefix, its
ancestors and itself, at the position that it has in its text. The unembedding runs only at
positions whose predictions are needed. A text's last token is not run, since its prediction is not
needed.

If an intervention acts only on last positions (`last_position`), each predicting token gets a twin
that reads the same ancestors. The twins are marked as last and make the predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from kb_lens.models.hooked import HookedModel
from kb_lens.passes import last_position
from kb_lens.passes.out_of_memory import tried
from kb_lens.passes.plain_scores import Scores, Text, by_text, plain_scores
from kb_lens.passes.shared_prefix import SharedPrefix, UncoveredError, cached, check_covered

_ROW_TOKENS = {"cpu": 256, "cuda": 512}
_OTHER_ROW_TOKENS = 512
"""Most positions in a row of several items, by device: the cost of attention is their square."""
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_ROUGH_TOLERANCE = 0.1
"""Largest difference from a plain pass in nats a token, by type, and for narrower types. Rounding
is well below; a wrong computation (such as a missing mask) is far above."""


class TreeScorer:
    """Scores texts as trees over their shared prefix."""

    def __init__(self, model: HookedModel, texts: Sequence[Text]) -> None:
        """Run the shared prefix; `UncoveredError` if the model cannot be run this way."""
        self._model = check_covered(model)
        self._shared = _shared_length(texts)
        self._twins = last_position.is_asked(model)
        self._cache = DynamicCache()
        if self._shared:
            prefix = torch.tensor([texts[0].ids[: self._shared]], device=model.cfg.device)
            with last_position.marking(torch.zeros_like(prefix, dtype=torch.bool)):
                self._cache, _ = cached(self._model, prefix)

    def check(self, family: Sequence[Text]) -> None:
        """Raise `UncoveredError` unless a family's scores are those of plain passes."""
        tree = self._tree()
        tree.add(family)
        joined = self._score([tree])
        tolerance = _TOLERANCE.get(self._model.cfg.dtype, _ROUGH_TOLERANCE)
        for scores in plain_scores(self._model, list({family[0], family[-1]}), 1):
            for text, tokens in scores.items():
                in_tree, expected = sum(joined[text]), sum(tokens)
                close = abs(in_tree - expected) <= tolerance * text.n_scored
                # A plain score that is NaN comes from the model, and is reported elsewhere.
                if math.isfinite(expected) and not close:
                    raise UncoveredError(
                        f"a text's log-probability is {in_tree:.4f} in a tree and "
                        f"{expected:.4f} by itself"
                    )

    def scores(self, families: Sequence[Sequence[Text]], batch_tokens: int) -> Iterator[Scores]:
        """Scores, a dictionary a batch. Texts of a family share a row and should begin alike."""
        device = torch.device(self._model.cfg.device).type
        room = min(batch_tokens, _ROW_TOKENS.get(device, _OTHER_ROW_TOKENS))
        # Similar sizes together need little padding.
        trees = sorted(self._filled(families, room), key=len, reverse=True)
        start = 0
        while start < len(trees):
            n_rows = max(1, batch_tokens // len(trees[start]))
            batch = trees[start : start + n_rows]
            scores = tried(partial(self._score, batch), len(batch), "rows of texts a pass")
            if scores is None:
                batch_tokens = len(batch) // 2 * len(trees[start])
                continue
            yield scores
            start += n_rows

    def _tree(self) -> _Tree:
        return _Tree(self._shared, self._twins)

    def _filled(self, families: Iterable[Sequence[Text]], room: int) -> Iterator[_Tree]:
        """Trees of at most `room` positions; a larger family gets a tree of its own."""
        tree = self._tree()
        for family in families:
            if len(tree) and len(tree) + tree.growth(family) > room:
                yield tree
                tree = self._tree()
            tree.add(family)
        if len(tree):  # the rest
            yield tree

    def _score(self, trees: Sequence[_Tree]) -> Scores:
        """One forward pass, a row a tree."""
        device = self._model.cfg.device
        tokens, depth, twin, ancestors = (x.to(device) for x in _stacked(trees))
        texts: list[Text] = []
        reads: list[tuple[int, int]] = []
        for row, tree in enumerate(trees):
            start = row * tokens.shape[1]
            reads += [(start + node, target) for node, target in tree.reads]
            texts += tree.texts
        reading, target = torch.tensor(reads).T
        nodes, node = reading.unique(return_inverse=True)  # texts may share a node
        positions = depth + self._shared
        rows = _TreeRows(self._cache, self._shared, ancestors, positions)
        gather = ("unembed.hook_in", partial(_gather, nodes=nodes))
        with (
            torch.no_grad(),
            last_position.marking(twin),
            self._model.hooks(fwd_hooks=[gather]),
        ):
            logits = rows.run(self._model, tokens, positions).logits[0]
            logprobs = by_text(logits, node, target, texts)
        return dict(zip(texts, logprobs, strict=True))


def _stacked(trees: Sequence[_Tree]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, depths, twins [row, pos] and what each position reads [row, pos, pos], padded."""
    width = max(len(tree) for tree in trees)
    tokens = torch.zeros(len(trees), width, dtype=torch.long)
    depth = torch.zeros_like(tokens)
    twin = torch.zeros_like(tokens, dtype=torch.bool)
    # Padding reads itself, since attention over nothing would give NaN.
    ancestors = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        n = len(tree)
        tokens[row, :n] = torch.tensor(tree.tokens)
        depth[row, :n] = torch.tensor(tree.depth)
        twin[row, :n] = torch.tensor(tree.twin)
        ancestors[row, :n, :n] = tree.ancestors()
    return tokens, depth, twin, ancestors


def _gather(
    residual: Float[Tensor, "row pos d_model"], hook: Any, *, nodes: Int[Tensor, " read"]
) -> Float[Tensor, "1 read d_model"]:
    return residual.flatten(0, 1)[nodes.to(residual.device)][None]


def _shared_length(texts: Sequence[Text]) -> int:
    """Number of tokens that all texts share, without one that predicts an option's first token."""
    # Whatever the first and the last in order share, all texts share.
    same = _same(min(texts).ids, max(texts).ids)
    return min(same, min(text.start for text in texts) - 1)


def _same(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the beginning that two sequences share."""
    for length, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return length
    return min(len(first), len(second))


class _Tree:
    """A prefix tree of texts without the tokens that all share: one row of a forward pass."""

    def __init__(self, shared: int, twins: bool) -> None:
        self.tokens: list[int] = []
        self.depth: list[int] = []
        self.twin: list[bool] = []
        self.texts: list[Text] = []
        self.reads: list[tuple[int, int]] = []
        """(position, token predicted there), text after text"""
        self._parent: list[int] = []
        self._children: dict[tuple[int, int, bool], int] = {}
        self._shared = shared
        self._twins = twins

    def __len__(self) -> int:
        return len(self.tokens)

    def growth(self, family: Sequence[Text]) -> int:
        """How many positions a family would add; its texts must be sorted."""
        total = 0
        before: Sequence[int] = ()
        for text in family:
            ids = text.ids[self._shared : -1]
            total += len(ids) - max(self._depth_of(ids), _same(before, ids))
            if self._twins:
                total += text.n_scored
            before = ids
        return total

    def _depth_of(self, ids: Sequence[int]) -> int:
        """How many of the tokens are already in the tree."""
        node = -1
        for depth, token in enumerate(ids):
            child = self._children.get((node, token, False))
            if child is None:
                return depth
            node = child
        return len(ids)

    def add(self, family: Sequence[Text]) -> None:
        """Add a family's texts, sharing the tokens that are already there."""
        for text in family:
            node = -1
            for pos in range(self._shared, len(text.ids) - 1):
                parent, token = node, text.ids[pos]
                node = self._node(parent, token, twin=False)
                if pos >= text.start - 1:
                    reader = self._node(parent, token, twin=True) if self._twins else node
                    self.reads.append((reader, text.ids[pos + 1]))
            self.texts.append(text)

    def _node(self, parent: int, token: int, *, twin: bool) -> int:
        key = (parent, token, twin)
        if key not in self._children:
            self._children[key] = len(self)
            self.tokens.append(token)
            self.depth.append(0 if parent < 0 else self.depth[parent] + 1)
            self.twin.append(twin)
            self._parent.append(parent)
        return self._children[key]

    def ancestors(self) -> Bool[Tensor, "pos pos"]:
        """Which positions each position reads: those on the path from the root, and itself."""
        # numpy, since torch takes 20 times as long for such short rows
        ancestors = np.eye(len(self), dtype=np.bool_)
        for node, parent in enumerate(self._parent):
            if parent >= 0:
                ancestors[node] |= ancestors[parent]
        return torch.from_numpy(ancestors)


class _TreeRows(SharedPrefix):
    """Rows in which each position reads the shared prefix, its ancestors and itself."""

    def __init__(
        self,
        cache: DynamicCache,
        length: int,
        ancestors: Bool[Tensor, "row pos pos"],
        positions: Int[Tensor, "row pos"],
    ) -> None:
        super().__init__(cache, length)
        self._ancestors = ancestors
        self._positions = positions
        self._masks: dict[tuple[int, torch.device], Bool[Tensor, "row 1 pos key"]] = {}

    def _mask(self, window: int, device: torch.device) -> Bool[Tensor, "row 1 pos key"]:
        """What each position reads; a sliding window (0 for none) counts positions in the text."""
        if (window, device) not in self._masks:
            rows, width = self._positions.shape
            prefix = torch.arange(self.length, device=self._positions.device).expand(rows, -1)
            keys = torch.cat([prefix, self._positions], dim=1)
            shared = self._ancestors.new_ones(rows, width, self.length)
            mask = torch.cat([shared, self._ancestors], dim=2)
            if window:
                mask = mask & (self._positions[:, :, None] - keys[:, None] < window)
            self._masks[window, device] = mask[:, None].to(device)
        return self._masks[window, device]

    def attend(
        self,
        module: Any,
        query: Float[Tensor, "row head pos d_head"],
        key: Float[Tensor, "row kv_head pos d_head"],
        value: Float[Tensor, "row kv_head pos d_head"],
        attention_mask: Tensor | None = None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "row pos head d_head"], None]:
        """Attention over the prefix and the row's own tree."""
        mask = self._mask(sliding_window or 0, query.device)
        if self.length:
            keys, values = self.prefix[module.layer_idx]
            key = torch.cat([keys.expand(len(key), *keys.shape), key], dim=2)
            value = torch.cat([values.expand(len(value), *values.shape), value], dim=2)
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        if softcap:  # torch's fused attention has no cap
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            scores = softcap * torch.tanh(query @ key.mT * scale / softcap)
            scores = scores.masked_fill(~mask, float("-inf"))
            mixed = scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
        return mixed.transpose(1, 2), None
