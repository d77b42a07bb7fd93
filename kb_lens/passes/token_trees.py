"""Many texts in one forward pass without computing a token twice.

Texts that are scored together begin alike: all share an instruction, the options of an item share
its prompt. What all share is run once and kept as keys and values. The rest of several items runs
as one row: a prefix tree in which every token is one position and reads the shared prefix, its own
ancestors and itself, at the place that it has in its text. The unembedding runs only where a token
is predicted whose probability is asked for, and a text's last token, which predicts nothing that
is asked for, does not run at all.

Where an intervention acts on last positions alone (`last_position`), each predicting token has a
twin that reads the same ancestors; the twins are marked as last, and the predictions are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from kb_lens.passes import last_position
from kb_lens.passes.shared_prefix import SharedPrefix, UncoveredError, cached, check_covered


class Text(NamedTuple):
    """Tokens of a prompt with an option; the option's begin at `start`, which is at least 1."""

    ids: tuple[int, ...]
    start: int


Scores = dict[Text, float]
"""Summed natural-log probability of each text's option."""

_ROW_TOKENS = {"cpu": 256, "cuda": 512}
"""Positions that a row of several items has at most: attention costs their square."""
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_ROUGH = 0.1
"""Largest difference from a plain pass a token, in nats: by type, and for narrower ones."""
_LOGIT_ROWS = 512
"""Rows over the vocabulary that are held in float32 at once."""


def plain_scores(model: Any, texts: Sequence[Text], batch_tokens: int) -> Iterator[Scores]:
    """Every text by itself, in padded batches of like length; a dictionary a batch.

    Padding is on the right, which changes nothing under causal attention.
    """
    if last_position.is_asked(model):
        yield from _token_by_token(model, texts, batch_tokens)
        return
    ordered = sorted(texts, key=lambda text: len(text.ids), reverse=True)
    start = 0
    while start < len(ordered):
        rows = max(1, batch_tokens // len(ordered[start].ids))
        batch = ordered[start : start + rows]
        yield dict(zip(batch, _padded_batch(model, batch), strict=True))
        start += rows


def _token_by_token(model: Any, texts: Sequence[Text], batch_tokens: int) -> Iterator[Scores]:
    """A row for every token of an option, in which its predicting position is the last."""
    for text in texts:
        ends = range(text.start, len(text.ids))
        pieces = [Text(text.ids[: end + 1], end) for end in ends]
        rows = max(1, batch_tokens // len(text.ids))
        batches = (pieces[first : first + rows] for first in range(0, len(pieces), rows))
        yield {text: sum(sum(_padded_batch(model, batch)) for batch in batches)}


def _padded_batch(model: Any, batch: Sequence[Text]) -> list[float]:
    width = max(len(text.ids) for text in batch) - 1
    tokens = torch.tensor([[*t.ids[:-1], *[0] * (width + 1 - len(t.ids))] for t in batch])
    lasts = torch.tensor([len(text.ids) - 2 for text in batch])
    spots = [(r, p) for r, text in enumerate(batch) for p in range(text.start, len(text.ids))]
    row, pos = torch.tensor(spots).T
    targets = torch.tensor([batch[r].ids[p] for r, p in spots])
    with torch.no_grad(), last_position.marking(torch.arange(width) == lasts[:, None]):
        logits = model(tokens.to(model.cfg.device), return_type="logits")
        nodes, node = (row * width + pos - 1).unique(return_inverse=True)
        read = logits.flatten(0, 1)[nodes.to(logits.device)]
        return _summed(read, node, targets, row, len(batch))


def _summed(
    logits: Float[Tensor, "node d_vocab"],
    node: Int[Tensor, " read"],
    target: Int[Tensor, " read"],
    owner: Int[Tensor, " read"],
    n_texts: int,
) -> list[float]:
    """Each text's log-probability from the positions at which its tokens are read."""
    total = torch.cat([part.float().logsumexp(-1) for part in logits.split(_LOGIT_ROWS)])
    node, target = node.to(logits.device), target.to(logits.device)
    logprob = (logits[node, target].float() - total[node]).cpu().double()
    return torch.zeros(n_texts, dtype=torch.float64).index_add_(0, owner, logprob).tolist()


class TreeScorer:
    """Scores texts as trees over what they all share."""

    def __init__(self, model: Any, texts: Sequence[Text]) -> None:
        """Run the shared prefix; `UncoveredError` if the model cannot be run this way."""
        check_covered(model)
        self._model, self._shared = model, _shared_length(texts)
        self._twins = last_position.is_asked(model)
        self._cache = DynamicCache()
        if self._shared:
            prefix = torch.tensor([texts[0].ids[: self._shared]], device=model.cfg.device)
            with last_position.marking(torch.zeros_like(prefix, dtype=torch.bool)):
                self._cache, _ = cached(model, prefix)

    def check(self, family: Sequence[Text]) -> None:
        """Raise `UncoveredError` unless a family's scores are those of plain passes."""
        tree = _Tree(self._shared, self._twins)
        tree.add(family)
        trees = self._score([tree])
        for plain in plain_scores(self._model, list({family[0], family[-1]}), 1):
            for text, expected in plain.items():
                found = trees[text]
                allowed = _TOLERANCE.get(self._model.cfg.dtype, _ROUGH)
                allowed *= len(text.ids) - text.start
                bad = not abs(found - expected) <= allowed  # also if one is no number
                if bad and math.isfinite(expected):
                    raise UncoveredError(
                        f"a text's log-probability is {found:.4f} in a tree and "
                        f"{expected:.4f} by itself"
                    )

    def scores(self, families: Sequence[Sequence[Text]], batch_tokens: int) -> Iterator[Scores]:
        """A dictionary a batch. Texts of a family share a row, so they should begin alike."""
        room = min(batch_tokens, _ROW_TOKENS.get(torch.device(self._model.cfg.device).type, 512))
        trees = sorted(self._filled(families, room), key=len, reverse=True)
        start = 0
        while start < len(trees):
            rows = max(1, batch_tokens // len(trees[start]))
            yield self._score(trees[start : start + rows])
            start += rows

    def _filled(self, families: Iterable[Sequence[Text]], room: int) -> Iterator[_Tree]:
        """Trees of at most `room` positions; a family that is larger has one of its own."""
        tree = _Tree(self._shared, self._twins)
        for family in families:
            if len(tree) and len(tree) + tree.growth(family) > room:
                yield tree
                tree = _Tree(self._shared, self._twins)
            tree.add(family)
        if len(tree):
            yield tree

    def _score(self, trees: Sequence[_Tree]) -> Scores:
        """One forward pass, a row a tree."""
        device, width = self._model.cfg.device, max(len(tree) for tree in trees)
        tokens, depth, twin, reads = (x.to(device) for x in _stacked(trees, width))
        texts = [text for tree in trees for text in tree.texts]
        first = [0, *accumulate(len(tree.texts) for tree in trees)]
        spots = [
            (row * width + node, target, first[row] + owner)
            for row, tree in enumerate(trees)
            for node, target, owner in tree.reads
        ]
        places, target, owner = torch.tensor(spots).T
        nodes, node = places.unique(return_inverse=True)  # texts that part later read one node
        rows = _TreeRows(self._cache, self._shared, reads, depth + self._shared)
        gather = ("unembed.hook_in", partial(_gather, nodes=nodes.to(device)))
        with (
            torch.no_grad(),
            last_position.marking(twin),
            self._model.hooks(fwd_hooks=[gather]),
        ):
            logits = rows.run(self._model, tokens, depth + self._shared).logits[0]
            found = _summed(logits, node, target, owner, len(texts))
        return dict(zip(texts, found, strict=True))


def _stacked(trees: Sequence[_Tree], width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, depths, twins [row, pos] and what each position reads [row, pos, pos], padded."""
    tokens = torch.zeros(len(trees), width, dtype=torch.long)
    depth, twin = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    reads = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        n = len(tree)
        tokens[row, :n], depth[row, :n] = torch.tensor(tree.tokens), torch.tensor(tree.depth)
        twin[row, :n], reads[row, :n, :n] = torch.tensor(tree.twin), tree.ancestors()
    return tokens, depth, twin, reads


def _gather(
    residual: Float[Tensor, "row pos d_model"], hook: Any, *, nodes: Int[Tensor, " read"]
) -> Float[Tensor, "1 read d_model"]:
    return residual.flatten(0, 1)[nodes][None]


def _shared_length(texts: Sequence[Text]) -> int:
    """Tokens that all texts begin with, less one that predicts the first token of an option."""
    same = _same(min(texts).ids, max(texts).ids)
    return min(same, min(text.start for text in texts) - 1)


def _same(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the beginning that two sequences share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(first), len(second)))


class _Tree:
    """A prefix tree of texts, less the tokens that all share: a row of a forward pass."""

    def __init__(self, shared: int, twins: bool) -> None:
        self.tokens: list[int] = []
        self.depth: list[int] = []
        self.twin: list[bool] = []
        self.texts: list[Text] = []
        self.reads: list[tuple[int, int, int]] = []
        """(position, token predicted there, index of the text whose token it is)"""
        self._parent: list[int] = []
        self._children: dict[tuple[int, int, bool], int] = {}
        self._shared, self._twins = shared, twins

    def __len__(self) -> int:
        return len(self.tokens)

    def growth(self, family: Sequence[Text]) -> int:
        """How many positions a family would add; its texts must be sorted."""
        total, before = 0, ()
        for text in family:
            ids = text.ids[self._shared : -1]
            total += len(ids) - max(self._depth_of(ids), _same(before, ids))
            total += self._twins * (len(text.ids) - text.start)
            before = ids
        return total

    def _depth_of(self, ids: Sequence[int]) -> int:
        """How many of the tokens are there already."""
        node = -1
        for place, token in enumerate(ids):
            node = self._children.get((node, token, False), -2)
            if node == -2:
                return place
        return len(ids)

    def add(self, family: Sequence[Text]) -> None:
        """Put a family's texts in; what is there already is shared."""
        for text in family:
            node = -1
            for place in range(self._shared, len(text.ids) - 1):
                parent, token = node, text.ids[place]
                node = self._node(parent, token, twin=False)
                if place >= text.start - 1:
                    reader = self._node(parent, token, twin=True) if self._twins else node
                    self.reads.append((reader, text.ids[place + 1], len(self.texts)))
            self.texts.append(text)

    def _node(self, parent: int, token: int, *, twin: bool) -> int:
        key = (parent, token, twin)
        if key not in self._children:
            self._children[key] = len(self.tokens)
            self.tokens.append(token)
            self.depth.append(0 if parent < 0 else self.depth[parent] + 1)
            self.twin.append(twin)
            self._parent.append(parent)
        return self._children[key]

    def ancestors(self) -> Bool[Tensor, "pos pos"]:
        """Which positions each position reads: those on its way from the root, and itself."""
        reads = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self._parent):
            if parent >= 0:
                reads[node] |= reads[parent]
        return reads


class _TreeRows(SharedPrefix):
    """Rows in which each position reads the shared prefix, its ancestors and itself."""

    def __init__(
        self,
        cache: DynamicCache,
        length: int,
        reads: Bool[Tensor, "row pos pos"],
        positions: Int[Tensor, "row pos"],
    ) -> None:
        super().__init__(cache, length)
        self._reads, self._positions = reads, positions
        self._masks: dict[int, Bool[Tensor, "row 1 pos key"]] = {}

    def _mask(self, window: int) -> Bool[Tensor, "row 1 pos key"]:
        """What each position reads; a sliding window (0 for none) counts places in the text."""
        if window not in self._masks:
            rows, width = self._positions.shape
            prefix = torch.arange(self.length, device=self._positions.device).expand(rows, -1)
            places = torch.cat([prefix, self._positions], dim=1)
            shared = self._reads.new_ones(rows, width, self.length)
            mask = torch.cat([shared, self._reads], dim=2)
            if window:
                mask = mask & (self._positions[:, :, None] - places[:, None] < window)
            self._masks[window] = mask[:, None]
        return self._masks[window]

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
        mask = self._mask(sliding_window or 0)
        if self.length:
            keys, values = self.prefix[module.layer_idx]
            key = torch.cat([keys.expand(len(key), *keys.shape), key], dim=2)
            value = torch.cat([values.expand(len(value), *values.shape), value], dim=2)
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        if softcap:
            scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
            scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, float("-inf"))
            mixed = scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
        return mixed.transpose(1, 2), None
