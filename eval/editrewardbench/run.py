"""`editrewardbench run`: one judge on a benchmark, and everything that its number depends on.

What it writes is described in `eval.editrewardbench.results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval.benchmarks import OpenBenchmark, summarise
from eval.editrewardbench.answers import Answers, collect_answers
from eval.editrewardbench.citation import cited_cell, is_public, lines_of, published, size_note
from eval.editrewardbench.examples import write_examples
from eval.editrewardbench.judging import Rows
from eval.editrewardbench.overlap import looks_of, read_training, shared_pairs
from eval.editrewardbench.provenance import content_hash, revision_of, versions
from eval.editrewardbench.results import PAIRS, SUMMARY
from eval.editrewardbench.settings import BenchConfig, BenchmarkSettings, given_principles
from eval.editrewardbench.specs import check_spec, is_pairwise
from eval.editrewardbench.summary import (
    last_line,
    most_frequent_failure,
    overlap_of,
    passes_of,
    result_of,
)
from eval.editrewardbench.truth import Truth, Truths
from eval.outcomes import Outcome
from eval.pairs import PairIndex
from eval.protocol import Thresholds, pick_margin, pick_thresholds, validation_split
from rrm.errors import InputError, NothingMade
from rrm.records import Failure
from rrm.rows.formats import Reading
from rrm.runtime.disk import disk_troubles_named
from rrm.runtime.lock import locked
from rrm.runtime.stage import write_json, write_text
from rrm.statistics import FEW_CLUSTERS


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    summary: dict[str, Any]
    outcomes: list[Outcome]
    failures: Sequence[Failure | None]


def description_of(config: BenchmarkSettings, opened: OpenBenchmark) -> dict[str, Any]:
    """What identifies the benchmark."""
    pairs = opened.pairs
    return {
        "kind": config.bench,
        "title": config.benchmark.title,
        "where": config.data,
        "revision": revision_of(config.data),
        "content_hash": content_hash(pairs),
        "limit": config.limit,
        "resized": config.resized,
        "size_note": size_note(config.benchmark, config.resized),
        "pairs": len(pairs),
        "edits": len({name for pair in pairs for name in pair.edit_ids}),
        "sources": len({pair.source for pair in pairs}),
        "votes": opened.votes,
    }


def with_overlap(
    outcomes: list[Outcome],
    pairs: Sequence[PairIndex],
    manifest: str | None,
    rows: Rows,
    reading: Reading,
) -> tuple[list[Outcome], Any]:
    """The outcomes with what each shares with the training data, and a summary of that."""
    if manifest is None:
        return outcomes, None
    training = read_training(Path(manifest), reading)
    shared = shared_pairs(pairs, looks_of(rows), training)
    marked = [
        o.model_copy(update={"shared": part}) for o, part in zip(outcomes, shared, strict=True)
    ]
    return marked, overlap_of(marked, manifest, training)


def notes_of(
    config: BenchmarkSettings, description: dict[str, Any], public: bool, unreadable: int
) -> list[str]:
    """What a reader of the numbers has to know beside them."""
    benchmark = config.benchmark
    other_set = benchmark.public is not None and not public and config.limit is None
    notes = [benchmark.note] if benchmark.note and not other_set else []
    if benchmark.public is not None and other_set:
        notes.append(
            f"This is not the set of {benchmark.public.hub_id}: numbers that were published of "
            "that one do not compare."
        )
    if not Path(config.data).exists() and description["revision"] is None:
        notes.append(
            "The benchmark's revision is not pinned: name owner/name@revision. Its content hash "
            "says what was read."
        )
    if config.limit is not None:
        notes.append(
            f"Only the first of the benchmark (--limit {config.limit}): no number of the whole."
        )
    if unreadable:
        notes.append(f"{unreadable} kept answers could not be read; they were asked for again.")
    if config.resized != benchmark.resizes:
        notes.append(
            f"Not as the benchmark's protocol has it: {description['size_note']} Published "
            "numbers do not compare."
        )
    notes += votes_notes(description["votes"] or {})
    if description["sources"] < FEW_CLUSTERS:
        notes.append(
            f"Fewer than {FEW_CLUSTERS} source images: the intervals are too narrow to be "
            "relied on."
        )
    return notes


def votes_notes(votes: Mapping[str, Any]) -> list[str]:
    """What is to be known of several votes on one pair, and of rows that are no pair."""
    notes = []
    if votes.get("voted_several_times"):
        agreed = (
            ""
            if votes["alpha"] is None
            else f" Raters agree by Krippendorff's alpha {votes['alpha']:.2f}."
        )
        notes.append(
            f"{votes['voted_several_times']} pairs have several votes: each counts once, as most "
            "votes say, a tie as a tie; "
            f"{votes['contradicted']} of them have votes for either side.{agreed}"
        )
    if votes.get("same_image"):
        notes.append(
            f"{votes['same_image']} rows are left out: both of their edits are the same image."
        )
    return notes


def fix_thresholds(
    config: BenchmarkSettings, answers: Answers, pairs: Sequence[PairIndex]
) -> tuple[list[PairIndex], Thresholds, dict[str, Any] | None]:
    """(pairs of the result, thresholds, what these were fixed on, if anything)."""
    if not config.validation:
        return list(pairs), Thresholds(), None
    held, tested = validation_split(pairs, config.validation, config.seed)
    if not held or not tested:
        raise InputError(
            f"--validation {config.validation} leaves {len(held)} pairs to fix a margin on and "
            f"{len(tested)} to test."
        )
    own, scores = answers.scored(held)
    thresholds = (
        pick_thresholds(own, scores)
        if config.benchmark.both_bad
        else Thresholds(pick_margin(own, scores))
    )
    return (
        tested,
        thresholds,
        {"share": config.validation, "pairs": len(held), "seed": config.seed, **vars(thresholds)},
    )


def judge_benchmark(
    config: BenchConfig, opened: OpenBenchmark, command: str, truth: Truth | None = None
) -> Result:
    """The judge's result, written into `out`, whose lock the caller holds."""
    out = Path(config.out)
    answers = collect_answers(
        config.reward,
        config.passes,
        config.seed,
        opened.pairs,
        opened.rows,
        Path(config.judgements or config.out),
        config.batch,
        config.retry,
        given_principles(config, opened.pairs, truth),
        truth,
    )
    pairs, thresholds, validation = fix_thresholds(config, answers, opened.pairs)
    outcomes, overlap = with_overlap(
        answers.outcomes(pairs, thresholds.margin),
        pairs,
        config.train_manifest,
        opened.rows,
        Reading(config.encoding),
    )
    benchmark, pairwise = config.benchmark, answers.reward["pairwise"]
    public = not config.limit and is_public(benchmark, config.data, opened.pairs)
    protocol = summarise(config.bench, *answers.scored(pairs), thresholds)
    for name in benchmark.needs_scores if pairwise else ():
        protocol["convention"].pop(name, None)
    description, citation = description_of(config, opened), benchmark.citation_of(pairwise)
    measured = (
        truth.measure(opened.rows, answers.judgements)
        if truth and answers.judgements is not None
        else None
    )
    summary = {
        "bench": description,
        "reward": answers.reward,
        "result": result_of(outcomes, answers.failures),
        "passes": passes_of(answers.of_each_pass(pairs, thresholds.margin), outcomes),
        "validation": validation,
        "headline": cited_cell(citation, protocol["convention"]),
        "protocol": protocol,
        "protocol_lines": lines_of(protocol),
        "anchors": published(benchmark, citation)
        if public and config.resized == benchmark.resizes
        else [],
        "anchors_note": benchmark.anchors_note,
        "overlap": overlap,
        "truth": measured,
        "notes": notes_of(config, description, public, answers.unreadable),
        "config": config.model_dump(mode="json"),
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    write_text(out / PAIRS, "".join(o.model_dump_json() + "\n" for o in outcomes))
    write_examples(out, outcomes, opened.rows, answers)
    write_json(out / SUMMARY, summary)
    return Result(summary, outcomes, answers.failures)


def run_bench(config: BenchConfig, command: str, truths: Truths | None = None) -> dict[str, Any]:
    """Judges the benchmark, writes everything into `out`, and returns the summary.

    Raises InputError for bad input and for a folder that another run is at work in; NothingMade,
    after everything was written, where there is not one score or choice.
    """
    check_spec(config.reward, config.passes)
    if config.validation and is_pairwise(config.reward):
        raise InputError("A pairwise judge says itself what is a tie; leave --validation out.")
    truth = config.truth_from(truths or {})
    with disk_troubles_named(config.out), locked(config.out):
        result = judge_benchmark(config, config.open(), command, truth)
    if result.summary["result"]["account"]["out"] == 0:
        failure = most_frequent_failure(result.failures)
        raise NothingMade(
            f"'{config.reward}' judged nothing ({failure}); {last_line(result.summary)}."
        )
    return result.summary
