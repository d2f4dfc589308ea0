"""Token trees: prompts that share a beginning, packed so that the shared part is encoded once, with gradients.

A step of the policy is a tree: the shared prompt, below it one branch per profile, below that the options, below an
option what the person wrote. K signals of one transition are a tree too: one prompt, K branches. A row of the batch
holds whole trees, as many as fit; a mask lets each token see its ancestors alone, and positions count along the
branch, so that the log-probabilities equal those of separate rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mf_llm.errors import InputError


class TokenTree:
    """A tree of token sequences that grows by branches.

    Args:
        prefix: the tokens of the root, at least one.
    """

    def __init__(self, prefix: Sequence[int]) -> None:
        if not prefix:
            raise InputError("`prefix` must hold at least one token, got none; nothing could predict a branch.")
        self.tokens: list[list[int]] = [list(prefix)]
        self.parents: list[int] = [-1]
        self.score_rows: dict[int, int] = {}

    def add(self, tokens: Sequence[int], parent: int = 0, *, scored: bool = False) -> int:
        """Adds a branch and returns the number of its node.

        Args:
            tokens: at least one token.
            parent: number of the node it continues.
            scored: whether its log-probability is wanted; `score_rows` then tells its row among the tree's scores.
        """
        if not tokens:
            raise InputError("`tokens` must hold at least one token, got none; an empty branch has no probability.")
        self.tokens.append(list(tokens))
        self.parents.append(parent)
        if scored:
            self.score_rows[len(self.tokens) - 1] = len(self.score_rows)
        return len(self.tokens) - 1

    def __len__(self) -> int:
        """Tokens of the packed row. The last token of a leaf is predicted, never read."""
        return sum(map(len, self.tokens)) - len(self._leaves())

    def paths(self) -> list[list[int]]:
        """Nodes from the root to each leaf."""
        paths = []
        for leaf in sorted(self._leaves()):
            path = [leaf]
            while self.parents[path[-1]] >= 0:
                path.append(self.parents[path[-1]])
            paths.append(path[::-1])
        return paths

    def longest_path(self) -> int:
        """Tokens of the longest row of a path, its last token left out."""
        return max((sum(len(self.tokens[node]) for node in path) for path in self.paths()), default=1) - 1

    def _leaves(self) -> set[int]:
        return set(range(1, len(self.tokens))) - set(self.parents)


@dataclass(frozen=True)
class PackedTrees:
    """A batch of trees as tensors.

    Attributes:
        input_ids: ``[R, T]``, padded on the left.
        attention_mask: bool ``[R, 1, T, T]`` (trees in rows), or int ``[R, T]`` (one path a row).
        position_ids: ``[R, T]``.
        places: ``[P, 2]``, rows and columns of the tokens that predict a scored token, each once.
        place, token: ``[M]``, one entry per token that is scored: which of these predicts it, and its id.
        node, offset: ``[M]``, which of the N scored nodes it belongs to, and its place in it.
        shape: (N, L), number of scored nodes and length of the longest.
        n_tokens: tokens that are read, padding left out.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    places: torch.Tensor
    place: torch.Tensor
    token: torch.Tensor
    node: torch.Tensor
    offset: torch.Tensor
    shape: tuple[int, int]
    n_tokens: int

    def model_inputs(self, role: str, device: torch.device | str) -> dict[str, torch.Tensor]:
        """The arguments of ``MFLLMForSimulation.forward`` for a role."""
        return {
            f"{role}_input_ids": self.input_ids.to(device),
            f"{role}_attention_mask": self.attention_mask.to(device),
            f"{role}_position_ids": self.position_ids.to(device),
            f"{role}_logit_places": self.places.to(device),
        }

    def log_probs(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Log-probability of every scored token.

        Args:
            logits: ``[P, V]``, those at `places`.
            temperature: the distribution is ``softmax(logits / temperature)``.

        Returns:
            ``[N, L]`` float32, 0 behind the end of a node.
        """
        device = logits.device
        known = torch.log_softmax(logits.float() / temperature, dim=-1)
        values = known[self.place.to(device), self.token.to(device)]
        flat = (self.node * self.shape[1] + self.offset).to(device)
        return values.new_zeros(self.shape[0] * self.shape[1]).index_put((flat,), values).view(self.shape)


def pack_trees(trees: Sequence[TokenTree], *, shared: bool = True) -> PackedTrees:
    """Packs trees into one batch.

    Args:
        trees: at least one. Their scored nodes are numbered tree after tree, in the order they were added.
        shared: whole trees in a row, as many as fit beside the longest tree's row, none seeing another. False: one
            path from root to leaf a row, with an ordinary causal mask, for backbones that take no trees
            (`mf_llm.models.attention_windows`).
    """
    starts = np.cumsum([0, *(len(tree.score_rows) for tree in trees)])
    parts = [
        (row, starts[i]) for i, tree in enumerate(trees) for row in ([_tree_row(tree)] if shared else _path_rows(tree))
    ]
    lengths = [len(row.ids) for row, _ in parts]
    width = max(lengths)
    rows = _filled_rows(lengths, width) if shared else [[i] for i in range(len(parts))]
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    if shared:
        # Padding sees itself: no softmax over nothing.
        mask = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
    else:
        mask = torch.zeros(len(rows), width, dtype=torch.long)
    scores: dict[int, np.ndarray] = {}
    for i, members in enumerate(rows):
        start = width - sum(lengths[n] for n in members)
        for n in members:
            row, first_score = parts[n]
            end = start + len(row.ids)
            ids[i, start:end] = torch.tensor(row.ids)
            positions[i, start:end] = torch.from_numpy(row.positions)
            if row.mask is not None:
                mask[i, start:end, start:end] = torch.from_numpy(row.mask)
            else:
                mask[i, start:end] = 1
            places = row.scores.copy()  # [m, 4]: column of the predecessor, token, row among the tree's scores, offset
            places[:, 0] += start
            places[:, 2] += first_score
            scores[n] = np.concatenate([np.full((len(places), 1), i), places], axis=1)
            start = end
    table = torch.from_numpy(np.concatenate([scores[n] for n in range(len(parts))]))
    longest = int(table[:, 4].max()) + 1 if len(table) else 1
    places, place = torch.unique(table[:, :2], dim=0, return_inverse=True)
    return PackedTrees(
        input_ids=ids,
        attention_mask=mask[:, None] if shared else mask,
        position_ids=positions,
        places=places,
        place=place,
        token=table[:, 2],
        node=table[:, 3],
        offset=table[:, 4],
        shape=(int(starts[-1]), longest),
        n_tokens=sum(lengths),
    )


def _filled_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which trees share a row: the longest first, each into the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((n for n, left in enumerate(room) if left >= lengths[i]), None)
        if place is None:
            rows.append([])
            room.append(width)
            place = -1
        rows[place].append(i)
        room[place] -= lengths[i]
    return sorted(sorted(row) for row in rows)


def in_batches(trees: Sequence[TokenTree], batch_tokens: int, *, shared: bool = True) -> list[list[int]]:
    """Indices of `trees` in batches of at most `batch_tokens`, longest rows first, at least one tree each.

    Args:
        trees: trees.
        batch_tokens: bound of rows times longest row, so padding included.
        shared: how they are packed, see `pack_trees`.
    """
    widths = [len(tree) if shared else tree.longest_path() for tree in trees]

    def n_rows(members: list[int]) -> int:
        if not shared:
            return sum(len(trees[i].paths()) for i in members)
        return len(_filled_rows([widths[i] for i in members], widths[members[0]]))

    batches: list[list[int]] = []
    for i in sorted(range(len(trees)), key=lambda i: -widths[i]):
        if batches and n_rows([*batches[-1], i]) * widths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    positions: np.ndarray  # [T]
    mask: np.ndarray | None  # [T, T]
    scores: np.ndarray  # [m, 4]


def _tree_row(tree: TokenTree) -> _Row:
    leaves = tree._leaves()
    read = [tokens[:-1] if i in leaves else tokens for i, tokens in enumerate(tree.tokens)]
    starts = np.cumsum([0, *map(len, read)])
    ids = [token for tokens in read for token in tokens]
    depth = np.zeros(len(read), dtype=np.int64)  # position of a node's first token
    ancestors = np.eye(len(read), dtype=bool)
    for i, parent in enumerate(tree.parents):
        if parent >= 0:
            depth[i] = depth[parent] + len(tree.tokens[parent])
            ancestors[i] |= ancestors[parent]
    owner = np.repeat(np.arange(len(read)), [len(tokens) for tokens in read])
    place = np.arange(len(ids))
    positions = depth[owner] + place - starts[owner]
    mask = ancestors[owner][:, owner] & (place[:, None] >= place[None, :])
    scores = []
    for node, score_row in tree.score_rows.items():
        parent = tree.parents[node]
        for offset, token in enumerate(tree.tokens[node]):
            before = starts[node] + offset - 1 if offset else starts[parent] + len(tree.tokens[parent]) - 1
            scores.append((before, token, score_row, offset))
    return _Row(ids, positions, mask, np.array(scores, dtype=np.int64).reshape(-1, 4))


def _path_rows(tree: TokenTree) -> list[_Row]:
    rows, done = [], set()
    for path in tree.paths():
        ids = [token for node in path for token in tree.tokens[node]][:-1]
        scores, start = [], 0
        for node in path:
            if node in tree.score_rows and node not in done:
                done.add(node)
                for offset, token in enumerate(tree.tokens[node]):
                    scores.append((start + offset - 1, token, tree.score_rows[node], offset))
            start += len(tree.tokens[node])
        rows.append(_Row(ids, np.arange(len(ids)), None, np.array(scores, dtype=np.int64).reshape(-1, 4)))
    return rows
