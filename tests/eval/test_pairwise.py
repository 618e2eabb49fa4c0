"""Judges behind a server, pairwise and pointwise, against a small one that speaks OpenAI's protocol
and says what it is told to."""

from __future__ import annotations

import base64
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from eval.benchmarks import read_benchmark
from eval.cache import AnswerCache
from eval.editrewardbench import cli
from eval.editrewardbench.pairwise import Vote, both_orders, read_choice, vote_all
from eval.editrewardbench.specs import check_spec, is_pairwise, open_judges, open_pair_judge
from rrm.errors import InputError
from rrm.records import Failure


def rows_of(folder, edits):
    """Rows of the benchmark in which every edit is one shade of red."""
    Image.new("RGB", (32, 32), (90, 90, 90)).save(folder / "source.png")
    lines = []
    for pair in edits:
        for shade in pair:
            Image.new("RGB", (32, 32), (shade, 0, 0)).save(folder / f"{shade}.png")
        row = {
            "key": [str(shade) for shade in pair],
            "instruction": "make it red",
            "input_image": "source.png",
            "output_images": [f"{shade}.png" for shade in pair],
            "task_type": "color_alter",
            "dimension": "overall",
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "bench.jsonl").write_text("".join(lines))
    return list(read_benchmark("editscore", str(folder / "bench.jsonl"), None))


def reds(body):
    """The red channel of every image in a request, in order."""
    parts = body["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getpixel((0, 0))[0]
        for url in urls
    ]


@contextmanager
def serving(answer):
    """Base URL of a server that answers with `answer(reds of the images)`, and all the bodies that
    it was sent."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            bodies.append(body)
            message = {"role": "assistant", "content": answer(reds(body))}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            reply = {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
            }
            payload = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def redder(shown):
    _, first, second = shown
    choice = "TIE" if first == second else "A" if first > second else "B"
    return f"One is redder.\n<choice>{choice}</choice>"


def votes_on(url, rows, path):
    with open_pair_judge(f"vlm-pair:{url}?model=m") as judge:
        pairs = [row.pair for row in rows]
        return vote_all(judge, pairs, lambda: iter(rows), AnswerCache(path, Vote), batch=3)


def test_a_preference_that_both_orders_share_counts_and_each_pair_is_shown_in_both(tmp_path):
    rows = rows_of(tmp_path, [(80, 30), (30, 80), (50, 50)])
    with serving(redder) as (url, bodies):
        found = votes_on(url, rows, tmp_path / "votes.jsonl")
    assert [vote.side for vote in found] == ["a", "b", "tie"]
    assert all(vote.consistent for vote in found)
    # the second pair is the first one swapped, and the third is the same in both orders: three
    # orders are left to ask
    assert sorted(reds(body)[1:] for body in bodies) == [[30, 80], [50, 50], [80, 30]]


def test_a_judge_that_always_names_the_first_place_prefers_nothing(tmp_path):
    with serving(lambda shown: "<choice>A</choice>") as (url, _):
        (vote,) = votes_on(url, rows_of(tmp_path, [(80, 30)]), tmp_path / "votes.jsonl")
    assert (vote.side, vote.consistent, vote.failure) == ("tie", False, None)


def test_an_answer_without_a_choice_in_one_order_makes_the_pair_unreadable_and_is_never_a_tie(
    tmp_path,
):
    with serving(lambda shown: "<choice>A</choice>" if shown[1] > shown[2] else "I like both.") as (
        url,
        _,
    ):
        (vote,) = votes_on(url, rows_of(tmp_path, [(80, 30)]), tmp_path / "votes.jsonl")
    assert vote.side is None
    assert vote.failure.kind == "unparseable"


def test_a_second_run_asks_nothing_and_another_model_is_asked_anew(tmp_path):
    rows = rows_of(tmp_path, [(80, 30), (20, 90)])
    with serving(redder) as (url, bodies):
        first = votes_on(url, rows, tmp_path / "votes.jsonl")
        assert votes_on(url, rows, tmp_path / "votes.jsonl") == first
        assert len(bodies) == 4
        assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 4
        with open_pair_judge(f"vlm-pair:{url}?model=other") as judge:
            vote_all(
                judge,
                [row.pair for row in rows],
                lambda: iter(rows),
                AnswerCache(tmp_path / "votes.jsonl", Vote),
                batch=8,
            )
        assert len(bodies) == 8


def test_the_prompt_says_that_the_order_means_nothing_and_holds_the_instruction(tmp_path):
    with serving(redder) as (url, bodies):
        votes_on(url, rows_of(tmp_path, [(80, 30)]), tmp_path / "votes.jsonl")
    assert "order of the edits means nothing" in bodies[0]["messages"][0]["content"]
    assert "make it red" in bodies[0]["messages"][1]["content"][-1]["text"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("so <choice>A</choice>", "first"),
        ("<choice> b </choice>", "second"),
        ("<choice>TIE</choice>", "tie"),
        ("<choice>A</choice> and again <choice>A</choice>", "first"),
        ("The instruction says <choice>B</choice>. I say **<choice>A</choice>**", "first"),
        ("<think><choice>B</choice>?</think><Choice>Ａ</Choice>", "first"),
    ],
)
def test_a_choice_is_read_strictly(text, place):
    assert read_choice(text) == place


@pytest.mark.parametrize(
    "text", ["", "A is better", "<choice>A", "<choice>C</choice>", "<choice>A</choice><choice>B</choice>",
     "The instruction says <choice>B</choice>.\nBut", "<think><choice>B</choice>"],
)  # fmt: skip
def test_what_is_no_single_choice_is_a_failure(text):
    assert isinstance(read_choice(text), Failure)


def test_both_orders_together_by_hand():
    def vote(place):
        return Vote(key="k", source="s", first="x", second="y", instruction="i", place=place)

    table = {
        ("first", "second"): "a",
        ("second", "first"): "b",
        ("tie", "tie"): "tie",
        ("first", "first"): "tie",
        ("second", "second"): "tie",
        ("first", "tie"): "tie",
    }
    assert {places: both_orders(vote(places[0]), vote(places[1])).side for places in table} == table


def test_a_pairwise_spec_gives_no_scores_and_takes_no_passes():
    spec = "vlm-pair:http://127.0.0.1:9/v1?model=m"
    assert is_pairwise(spec)
    with pytest.raises(InputError, match="scores none"), open_judges(spec, 1, 0):
        pass
    with pytest.raises(InputError, match="leave --passes out"):
        check_spec(spec, 2)
    with pytest.raises(InputError, match="'model'"):
        check_spec("vlm-pair:http://127.0.0.1:9/v1", 1)


def run(monkeypatch, folder, reward, *more):
    """The summary of `editrewardbench run` on the benchmark in the folder."""
    where = folder / "bench.jsonl"
    arguments = [
        "run",
        "--bench",
        "editscore",
        "--data",
        str(where),
        "--reward",
        reward,
        "--out",
        str(folder / "out"),
        *more,
    ]
    monkeypatch.setattr("sys.argv", ["editrewardbench", *arguments])
    cli.main()
    return json.loads((folder / "out/summary.json").read_text())


def test_a_pairwise_judge_runs_end_to_end_and_is_reported_without_scores(
    tmp_path, monkeypatch, capsys
):
    rows_of(tmp_path, [(80, 30), (30, 80), (50, 50), (90, 20)])

    def answer(shown):
        return "no idea" if 90 in shown[1:] else redder(shown)

    with serving(answer) as (url, bodies):
        summary = run(monkeypatch, tmp_path, f"vlm-pair:{url}?model=m")
        asked = len(bodies)
        run(monkeypatch, tmp_path, f"vlm-pair:{url}?model=m")
        assert len(bodies) == asked == 5
    result = summary["result"]
    assert (result["n"], result["right"], result["ties"], result["unreadable"]) == (4, 1, 1, 1)
    assert result["account"]["failed"] == {"unparseable": 2}
    assert result["same_in_both_orders"] == 1
    assert summary["reward"]["pairwise"]
    assert summary["reward"]["sampling"]["model"] == "m"
    assert "both orders came to the same in 100.0%" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["editrewardbench", "report", str(tmp_path / "out")])
    cli.main()
    html = (tmp_path / "out/report.html").read_text()
    assert "gives none of them a score" in html
    assert "Shown in swapped order" in html


def scored(shown):
    return "Hard to tell." if shown[1] == 90 else f"Fairly red.\n<score>{shown[1] / 10}</score>"


def test_a_pointwise_judge_asks_about_every_edit_once_and_an_unreadable_answer_stays_in_the_denominator(
    tmp_path, monkeypatch
):
    rows_of(tmp_path, [(80, 30), (30, 80), (90, 30)])
    with serving(scored) as (url, bodies):
        summary = run(monkeypatch, tmp_path, f"vlm:{url}?model=m")
        assert sorted(reds(body)[1] for body in bodies) == [30, 80, 90]
        run(monkeypatch, tmp_path, f"vlm:{url}?model=m")
        assert len(bodies) == 3
        run(monkeypatch, tmp_path, f"vlm:{url}?model=m&temperature=0.7")
        assert len(bodies) == 6
    result = summary["result"]
    assert (result["n"], result["right"], result["unreadable"]) == (3, 1, 1)
    assert result["account"]["failed"] == {"unparseable": 1}
    assert result["dimensions"]["overall"]["strict"] == pytest.approx(1 / 3)


def test_sampled_passes_send_a_seed_each_and_a_greedy_judge_sends_none(tmp_path, monkeypatch):
    rows_of(tmp_path, [(80, 30)])
    with serving(scored) as (url, bodies):
        run(
            monkeypatch,
            tmp_path,
            f"vlm:{url}?model=m&temperature=1",
            "--passes",
            "2",
            "--seed",
            "7",
        )
        assert sorted(body["seed"] for body in bodies) == [7, 7, 8, 8]
        run(monkeypatch, tmp_path, f"vlm:{url}?model=m")
        assert all("seed" not in body for body in bodies[4:])
