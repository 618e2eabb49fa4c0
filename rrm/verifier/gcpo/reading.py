"""What GCPO reads from a trace: its score, and which of its tokens are the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rrm.parsing import read_answer
from rrm.parsing.marks import score_span
from rrm.records import Choice, Failure, FailureKind

Read = float | FailureKind
"""A trace's score, or why it has none."""


def read_score(text: str, count: int, ended: bool) -> Read:
    """The trace's score, or why it has none: a trace that met the length limit is cut off."""
    read = read_answer(Choice(content=text, finish_reason="stop" if ended else "length"), count)
    return read.kind if isinstance(read, Failure) else read.score


def score_tokens(pieces: Sequence[str]) -> list[bool]:
    """Whether each token (as text) lies in the number of the score that ends the trace."""
    begin, end = score_span("".join(pieces)) or (0, 0)
    found, place = [], 0
    for piece in pieces:
        found.append(begin <= place < end)
        place += len(piece)
    return found


def score_mask(ids_BT: torch.Tensor, decode: Callable[[list[int]], str]) -> torch.Tensor:
    """1 for the tokens of each trace's final score, else 0, (B, T); `decode` gives the text of
    token ids."""
    pieces = {i: decode([i]) for i in ids_BT.unique().tolist()}
    rows = [score_tokens([pieces[i] for i in ids]) for ids in ids_BT.tolist()]
    return torch.tensor(rows, dtype=torch.float32, device=ids_BT.device)
