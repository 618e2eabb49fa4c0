"""What a run leaves in its folder, and how it is read again.

rows.jsonl, votes.jsonl  judgements (votes of a pairwise judge), each written as it comes, keyed by
                         judge, sampling, prompt and pixels: an interrupted run carries on, and one
                         with other settings asks anew
principles.jsonl         the principles that the judge itself wrote, keyed in the same way
pairs.jsonl              the outcome of every pair, by the settings of the last run
summary.json             its numbers, with the settings that they are of
examples.json, examples/ pairs to look at
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.cache import read_records
from eval.outcomes import Outcome
from rrm.errors import InputError
from rrm.runtime.stage import read_note

PAIRS, SUMMARY = "pairs.jsonl", "summary.json"
AGAIN = "run the same `editrewardbench run` again: what was judged is kept"
NEEDED = {
    "bench": ("kind", "where", "content_hash", "pairs", "resized", "size_note"),
    "reward": ("spec", "pairwise"),
    "result": ("n", "account", "headline", "dimensions"),
}
"""The keys of a summary that are looked up, part by part."""


def no_result(folder: Path) -> InputError:
    """What is said of a folder without a result."""
    return InputError(
        f"{folder} holds no result; run `editrewardbench run … --out {folder}` first."
    )


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of the run in this folder. Raises InputError where there is none."""
    if not (folder / SUMMARY).is_file():
        raise no_result(folder)
    try:
        summary = read_note(folder / SUMMARY, *NEEDED)
        lacking = [
            name for name, keys in NEEDED.items() for key in keys if key not in summary[name]
        ]
    except (ValueError, TypeError) as error:
        raise InputError(f"{error}; {AGAIN}.") from error
    if lacking:
        raise InputError(f"{folder / SUMMARY} is damaged, or of another version; {AGAIN}.")
    return summary


def read_outcomes(folder: Path) -> list[Outcome]:
    """The outcomes that a run left in its folder. Raises InputError where there are none."""
    if not (folder / PAIRS).is_file():
        raise no_result(folder)
    return read_records(folder / PAIRS, Outcome, AGAIN)
