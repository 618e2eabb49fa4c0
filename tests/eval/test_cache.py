"""What `editrewardbench` keeps: nothing that was answered is lost, nothing that cannot be read is
believed, failures are told."""

from __future__ import annotations

import errno
import json

import pytest

from eval import cache
from eval.cache import AnswerCache, JudgedRow
from eval.editrewardbench.baselines import BaselineJudge
from rrm.errors import InputError
from rrm.records import Failure, Judgement
from rrm.runtime.lock import locked
from tests.eval.test_pairwise import reds, serving
from tests.support.reward_benchmarks import own_pairs

PAIRS = (
    {"label": "a"},
    {"label": "b", "edited_a": "C.png", "edited_b": "D.png"},
    {"label": "a", "source": "C.png"},
)


@pytest.fixture
def bench(command, tmp_path):
    """Runs the benchmark of three pairs, six edits, into a folder; gives exit code, stdout and
    stderr."""
    where = own_pairs(tmp_path, *PAIRS)

    def call(reward, *more, out="out"):
        arguments = (
            "--bench",
            "jsonl",
            "--data",
            where,
            "--reward",
            reward,
            "--out",
            tmp_path / out,
            *more,
        )
        return command("run", *arguments)

    return call


def rows_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, InputError("the server refuses everything")])
def test_what_was_answered_before_a_stop_is_kept_and_the_files_end_as_if_there_had_been_none(
    bench, tmp_path, monkeypatch, stop
):
    assert bench("baseline:more-change", out="whole")[0] == 0
    judge, asked = BaselineJudge.judge, []

    def stopping(self, edit):
        asked.append(edit.edit_id)
        if len(asked) == 5:
            raise stop
        return judge(self, edit)

    monkeypatch.setattr(BaselineJudge, "judge", stopping)
    assert bench("baseline:more-change")[0] == (130 if stop is KeyboardInterrupt else 2)
    assert len(rows_in(tmp_path / "out/rows.jsonl")) == 4
    assert bench("baseline:more-change")[0] == 0
    assert len(asked) == len(set(asked)) + 1 == 7
    for name in ("rows.jsonl", "pairs.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_answers_that_come_in_any_order_end_in_the_benchmarks_order(bench, tmp_path, monkeypatch):
    assert bench("baseline:more-change", out="whole")[0] == 0

    def backwards(self, edits, done):
        for place in reversed(range(len(edits))):
            done(place, self.judge(edits[place]))

    monkeypatch.setattr(BaselineJudge, "judge_many", backwards)
    assert bench("baseline:more-change")[0] == 0
    assert (tmp_path / "out/rows.jsonl").read_bytes() == (
        tmp_path / "whole/rows.jsonl"
    ).read_bytes()


BAD = (
    b'{"key": "x"}',
    b"not JSON",
    b'\xff\xfe{"a": 1}',
    b"[1]",
    b"9" * 5000,
    b'{"key": "k", "source": "s", "edited": "e", "instruction": "i", "judgement": {"expected": 11}}',
    b'{"key": "k", "source": "s", "edited": "e", "instruction": "i", "judgement": {"expected": NaN}}',
)


def test_a_kept_row_that_cannot_be_read_is_counted_and_asked_again(bench, tmp_path):
    assert bench("baseline:more-change", out="whole")[0] == 0
    assert bench("baseline:more-change")[0] == 0
    path = tmp_path / "out/rows.jsonl"
    first, *others = path.read_bytes().splitlines()
    spoilt = [first.replace(b'"expected":', b'"expected":1e999,"mass":'), *BAD, *others]
    path.write_bytes(b"\n".join(spoilt) + b"\n")
    code, said, wrong = bench("baseline:more-change")
    assert code == 0
    assert f"{len(BAD) + 1} lines of {path} cannot be read" in wrong
    assert f"{len(BAD) + 1} kept answers could not be read" in said
    assert path.read_bytes() == (tmp_path / "whole/rows.jsonl").read_bytes()


def test_kept_votes_that_cannot_be_read_are_asked_again(bench, tmp_path):
    with serving(lambda shown: "<choice>A</choice>") as (url, bodies):
        assert bench(f"vlm-pair:{url}?model=m")[0] == 0
        assert len(bodies) == 6
        path = tmp_path / "out/votes.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b'"place":"first"', b'"place":"third"', 1))
        assert bench(f"vlm-pair:{url}?model=m")[0] == 0
        assert len(bodies) == 7
    assert path.read_bytes() == whole


def test_a_damaged_result_is_one_sentence(bench, command, tmp_path):
    assert bench("baseline:more-change")[0] == 0
    for name in ("pairs.jsonl", "summary.json", "examples.json"):
        path = tmp_path / "out" / name
        sound = path.read_bytes()
        for damage in (b"", b"{", b"[1]\n", b'{"number": 1}\n'):
            path.write_bytes(damage)
            code, _, wrong = command("report", tmp_path / "out")
            assert code == (0 if damage == b"" and name == "pairs.jsonl" else 2), (
                name,
                damage,
                wrong,
            )
        path.write_bytes(sound)


def test_retry_asks_again_for_whatever_failed(bench, tmp_path):
    said = {"word": "Hard to tell."}

    def answer(shown):
        return said["word"] if shown[1] == 90 else f"<score>{shown[1] / 10}</score>"

    with serving(answer) as (url, bodies):
        assert bench(f"vlm:{url}?model=m")[0] == 0
        assert bench(f"vlm:{url}?model=m")[0] == 0
        assert len(bodies) == 6
        said["word"] = "<score>9.0</score>"
        code, printed, _ = bench(f"vlm:{url}?model=m", "--retry")
        assert code == 0
        assert sorted(reds(body)[1] for body in bodies[6:]) == [90, 90]
        assert printed.splitlines()[-1] == "judgements: 6 rows in, 6 out, 0 failed"
        bench(f"vlm:{url}?model=m", "--retry")
        assert len(bodies) == 8


def test_a_run_without_one_score_ends_with_code_1_and_says_why(bench, tmp_path):
    with serving(lambda shown: "Hard to tell.") as (url, _):
        code, _, wrong = bench(f"vlm:{url}?model=m")
    assert code == 1
    assert "judged nothing (unparseable:" in wrong
    assert "judgements: 6 rows in, 0 out, 6 failed: 6 unparseable" in wrong
    assert json.loads((tmp_path / "out/summary.json").read_text())["result"]["unreadable"] == 3


def test_the_last_line_says_what_became_of_all_judgements(bench):
    with serving(lambda shown: "no" if shown[1] == 90 else "<score>1.0</score>") as (url, _):
        code, said, _ = bench(f"vlm:{url}?model=m")
    assert code == 0
    assert said.splitlines()[-1] == "judgements: 6 rows in, 4 out, 2 failed: 2 unparseable"


def test_a_folder_that_another_run_is_at_work_in_is_left_alone(bench, tmp_path):
    with locked(tmp_path / "out"):
        code, _, wrong = bench("baseline:more-change")
    assert (code, list(tmp_path.glob("out/*"))) == (2, [])
    assert "is in use by another run" in wrong


def test_a_full_disk_is_one_sentence_and_what_was_written_before_is_kept(
    bench, tmp_path, monkeypatch
):
    assert bench("baseline:more-change", out="whole")[0] == 0
    append, written = cache.append_lines, []

    def full(path, lines):
        written.append(path)
        if len(written) == 4:
            path.open("a").write('{"key": "half a li')
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, lines)

    monkeypatch.setattr(cache, "append_lines", full)
    code, _, wrong = bench("baseline:more-change")
    assert (code, len(written)) == (2, 4)
    assert f"{tmp_path / 'out'}: the disk is full" in wrong
    monkeypatch.undo()
    assert bench("baseline:more-change")[0] == 0
    assert (tmp_path / "out/rows.jsonl").read_bytes() == (
        tmp_path / "whole/rows.jsonl"
    ).read_bytes()


def test_an_out_that_is_a_file_and_names_that_no_file_can_hold_are_one_sentence(
    bench, command, tmp_path
):
    (tmp_path / "file").write_text("mine")
    code, _, wrong = bench("baseline:more-change", out="file")
    assert (code, (tmp_path / "file").read_text()) == (2, "mine")
    assert "is a file; name a folder" in wrong
    for name in ("id", "task_type", "dimension", "instruction"):
        where = own_pairs(tmp_path, {"label": "a", name: "half an emoji: \ud83d"})
        arguments = (
            "--bench",
            "jsonl",
            "--data",
            where,
            "--reward",
            "baseline:copy",
            "--out",
            tmp_path / name,
        )
        code, _, wrong = command("run", *arguments)
        assert code == 2
        assert f"line 1: '{name}' holds half a character" in wrong


def test_the_requirement_is_part_of_the_task(command, tmp_path):
    rows = [
        {"label": "a"},
        {"label": "b", "requirement": "Keep the sky."},
        {"label": "b", "requirement": "Mind the gap."},
    ]
    where = own_pairs(tmp_path, *rows)
    for kind, answer, asked in (
        ("vlm", "<score>5.0</score>", 6),
        ("vlm-pair", "<choice>A</choice>", 6),
    ):
        with serving(lambda shown, answer=answer: answer) as (url, bodies):
            reward = f"{kind}:{url}?model=m"
            arguments = (
                "--bench",
                "jsonl",
                "--data",
                where,
                "--reward",
                reward,
                "--out",
                tmp_path / kind,
            )
            assert command("run", *arguments)[0] == 0
        texts = [body["messages"][-1]["content"][-1]["text"] for body in bodies]
        assert len(texts) == asked
        assert [
            sum(words in text for text in texts) for words in ("Keep the sky.", "Mind the gap.")
        ] == [2, 2]
        outcomes = rows_in(tmp_path / kind / "pairs.jsonl")
        assert [o["requirement"] for o in outcomes] == [None, "Keep the sky.", "Mind the gap."]


def test_of_several_rows_the_last_counts_and_a_failure_of_the_moment_is_asked_again(tmp_path):
    def row(key, judgement):
        return JudgedRow(key=key, source="s", edited="e", instruction="i", judgement=judgement)

    late, lost = (Judgement(failure=Failure(kind=kind)) for kind in ("timed_out", "unparseable"))
    kept = AnswerCache(tmp_path / "rows.jsonl", JudgedRow)
    for key, judgement in (("a", late), ("b", lost), ("c", late), ("c", Judgement(expected=3.0))):
        kept.add(row(key, judgement))
    assert [kept.settled(key) for key in "abcd"] == [
        True,
        True,
        True,
        False,
    ]  # once in a run is enough
    again, retried = (
        AnswerCache(tmp_path / "rows.jsonl", JudgedRow),
        AnswerCache(tmp_path / "rows.jsonl", JudgedRow, retry=True),
    )
    assert [again.settled(key) for key in "abcd"] == [False, True, True, False]
    assert [retried.settled(key) for key in "abcd"] == [False, False, True, False]
    again.put_in_order("cb")
    assert [value["key"] for value in rows_in(tmp_path / "rows.jsonl")] == ["a", "c", "b"]
