"""`editrewardbench run`: a judge on a public benchmark, and everything that its number depends on.

The folder named by --out holds
    rows.jsonl, votes.jsonl   judgements (votes of a pairwise judge), each written as it comes, keyed by model, sampling, prompt and pixels: a
                              run that was interrupted carries on, and one with other settings asks anew and mixes with nothing
    principles.jsonl          the principles that the judge itself wrote, keyed in the same way
    pairs.jsonl               what came of every pair, by the settings of the last run
    summary.json              its numbers, with the settings that they are of
    examples.json, examples/  pairs to look at
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from eval.editrewardbench.compare import SUMMARY
from eval.editrewardbench.examples import write_examples
from eval.editrewardbench.judging import Judging, judge_pairs
from eval.editrewardbench.outcomes import PAIRS, Outcome
from eval.editrewardbench.overlap import NOTES, looks_of, read_training, shared_pairs
from eval.editrewardbench.protocol_lines import (
    PUBLIC,
    RESIZES,
    TITLES,
    anchors_note,
    headline_of,
    is_public,
    lines_of,
    published,
    size_line,
)
from eval.editrewardbench.provenance import content_hash, revision_of, versions
from eval.editrewardbench.specs import check_spec, is_pairwise
from eval.editrewardbench.summary import last_line, most_frequent, overlap_of, passes_of, result_of
from eval.index import PairIndex, open_bench
from eval.protocols import PUBLIC_RULE, Thresholds, pick_margin, pick_thresholds, summarise_bench, validation_split
from eval.scoring import Rows
from rrm.config import Config
from rrm.errors import InputError, NothingMade
from rrm.records import Label
from rrm.rows.formats import Reading
from rrm.rows.text import Encoding
from rrm.runtime.disk import disk_troubles_named
from rrm.runtime.lock import locked
from rrm.runtime.stage import write_json, write_text
from rrm.statistics import FEW_CLUSTERS


class BenchConfig(Config):
    """What is run on what."""

    bench: str
    data: str
    reward: str
    out: str
    passes: int = Field(default=1, gt=0)
    limit: int | None = Field(default=None, gt=0)
    """As `read_bench` counts it: rows of every dimension of editscore, groups of every K of tiger, else rows. All unless set."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """The share of the sources on which a tie margin is fixed, and which is no part of the result."""
    train_manifest: str | None = None
    batch: int = Field(default=32, gt=0)
    """Edits judged at once; requests in flight for a server."""
    seed: int = 0
    retry: bool = False
    """Whether what failed before is asked again, for whatever reason it failed."""
    encoding: Encoding | None = None
    """Of text files that are not UTF-8, such as gb18030."""
    labels: dict[str | int | float | bool, Label | None] | None = None
    """What labels of a preference set mean that are not certain: value → a, b, same, or None to leave its rows out."""
    resize: bool | None = None
    """Whether edits are brought to their source's size before they are judged; as the benchmark's protocol has it unless set."""

    @property
    def resized(self) -> bool:
        """Whether edits are brought to their source's size."""
        return self.bench in RESIZES if self.resize is None else self.resize

    @property
    def by_protocol(self) -> bool:
        """Whether that is as the benchmark's protocol has it."""
        return self.resized == (self.bench in RESIZES)


def bench_of(config: BenchConfig, pairs: Sequence[PairIndex]) -> dict[str, Any]:
    """What identifies the benchmark."""
    return {
        "kind": config.bench,
        "title": TITLES[config.bench],
        "where": config.data,
        "revision": revision_of(config.data),
        "content_hash": content_hash(pairs),
        "limit": config.limit,
        "resized": config.resized,
        "size_note": size_line(config.bench, config.resized),
        "pairs": len(pairs),
        "edits": len({name for pair in pairs for name in pair.edit_ids}),
        "sources": len({pair.source for pair in pairs}),
    }


def with_overlap(
    outcomes: list[Outcome], pairs: Sequence[PairIndex], manifest: str | None, rows: Rows, reading: Reading
) -> tuple[list[Outcome], Any]:
    """The outcomes, each with what it shares with the training data, and what is said of that; None without training data."""
    if manifest is None:
        return outcomes, None
    training = read_training(Path(manifest), reading)
    shared = shared_pairs(pairs, looks_of(rows), training)
    marked = [o.model_copy(update={"shared": found}) for o, found in zip(outcomes, shared, strict=True)]
    return marked, overlap_of(marked, manifest, training)


def notes_of(config: BenchConfig, bench: dict[str, Any], public: bool, unreadable: int) -> list[str]:
    """What a reader of the numbers has to know beside them; `public`: the set is the whole one that numbers were published of."""
    another = config.bench in PUBLIC and not public and config.limit is None
    notes = [NOTES[config.bench]] if config.bench in NOTES and not another else []
    if another:
        notes.append(
            f"This is not the set of {PUBLIC[config.bench][0]}: numbers that were published of that one do not compare."
        )
    if not Path(config.data).exists() and bench["revision"] is None:
        notes.append("The benchmark's revision is not pinned: name owner/name@revision. Its content hash says what was read.")
    if config.limit is not None:
        notes.append(f"Only the first of the benchmark (--limit {config.limit}): no number of the whole.")
    if unreadable:
        notes.append(f"{unreadable} kept answers could not be read; they were asked for again.")
    if not config.by_protocol:
        notes.append(f"Not as the benchmark's protocol has it: {bench['size_note']} Published numbers do not compare.")
    notes += votes_notes(bench["votes"] or {})
    if bench["sources"] < FEW_CLUSTERS:
        notes.append(f"Fewer than {FEW_CLUSTERS} source images: the intervals are too narrow to be relied on.")
    return notes


def votes_notes(votes: Mapping[str, Any]) -> list[str]:
    """What is told of several votes on one pair, and of pairs that are none."""
    notes = []
    if votes.get("voted_several_times"):
        agreed = "" if votes["alpha"] is None else f" Raters agree by Krippendorff's alpha {votes['alpha']:.2f}."
        notes.append(
            f"{votes['voted_several_times']} pairs have several votes: each counts once, as most votes say, a tie as a tie; "
            f"{votes['contradicted']} of them have votes for either side.{agreed}"
        )
    if votes.get("same_image"):
        notes.append(f"{votes['same_image']} rows are left out: both of their edits are the same image.")
    return notes


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes one outcome a line, at once or not at all."""
    write_text(path, "".join(o.model_dump_json() + "\n" for o in outcomes))


def thresholds_of(
    config: BenchConfig, judging: Judging, pairs: Sequence[PairIndex]
) -> tuple[list[PairIndex], Thresholds, dict[str, Any] | None]:
    """The pairs that the result is of, the thresholds, and what these were fixed on; None where no share is held out for that."""
    if not config.validation:
        return list(pairs), Thresholds(), None
    held, tested = validation_split(pairs, config.validation, config.seed)
    if not held or not tested:
        raise InputError(
            f"--validation {config.validation} leaves {len(held)} pairs to fix a margin on and {len(tested)} to test."
        )
    own, scores = judging.scored(held)
    # two bad edits are a class of their own in this benchmark alone
    found = pick_thresholds(own, scores) if config.bench == "genai" else Thresholds(pick_margin(own, scores))
    return tested, found, {"share": config.validation, "pairs": len(held), "seed": config.seed, **vars(found)}


def run_bench(config: BenchConfig, command: str) -> dict[str, Any]:
    """Judges the benchmark, writes everything into `out`, and returns the summary.

    Raises InputError for bad input, and for a folder that another run is at work in; NothingMade, after everything was
    written, where there is not one score or choice.
    """
    check_spec(config.reward, config.passes)
    if config.validation and is_pairwise(config.reward):
        raise InputError("A pairwise judge says itself what is a tie; leave --validation out.")
    with disk_troubles_named(config.out), locked(config.out):
        summary, failed = run_locked(config, command)
    if summary["result"]["account"]["out"] == 0:
        raise NothingMade(f"'{config.reward}' judged nothing ({failed}); {last_line(summary)}.")
    return summary


def run_locked(config: BenchConfig, command: str) -> tuple[dict[str, Any], str]:
    """`run_bench` in a folder that no other run can get at; the summary, and the most frequent failure in words."""

    out = Path(config.out)
    reading = Reading(config.encoding)
    opened = open_bench(config.bench, config.data, config.limit, config.resized, reading, config.labels)
    everything, rows = opened.pairs, opened.rows
    judging = judge_pairs(config.reward, config.passes, config.seed, everything, rows, out, config.batch, config.retry)
    pairs, thresholds, validation = thresholds_of(config, judging, everything)
    margin = thresholds.margin
    outcomes, overlap = with_overlap(judging.outcomes(pairs, margin), pairs, config.train_manifest, rows, reading)
    bench = bench_of(config, everything) | {"votes": opened.votes}
    public = not config.limit and is_public(config.bench, config.data, everything)
    own, scores = judging.scored(pairs)
    protocol = summarise_bench(config.bench, own, scores, margin, thresholds.bad_below, thresholds.four_margin)
    if judging.reward["pairwise"]:
        protocol["convention"].pop(PUBLIC_RULE, None)  # which ranks by scores
    summary = {
        "bench": bench,
        "reward": judging.reward,
        "result": result_of(outcomes, judging.answers),
        "passes": passes_of(judging.single(pairs, margin), outcomes),
        "validation": validation,
        "headline": headline_of(config.bench, judging.reward["pairwise"], protocol["convention"]),
        "protocol": protocol,
        "protocol_lines": lines_of(protocol),
        "anchors": published(config.bench, judging.reward["pairwise"]) if public and config.by_protocol else [],
        "anchors_note": anchors_note(config.bench),
        "overlap": overlap,
        "notes": notes_of(config, bench, public, judging.unreadable),
        "config": config.model_dump(mode="json"),
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    write_outcomes(out / PAIRS, outcomes)
    write_examples(out, outcomes, rows, judging.words)
    write_json(out / SUMMARY, summary)
    return summary, most_frequent(judging.answers)
