"""The benchmarks' loaders, on small files of the public schemas."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from eval import benchmarks
from eval.benchmarks import BENCHMARKS, open_benchmark, read_benchmark, summarise
from eval.editrewardbench import judging
from eval.editrewardbench.examples import read_examples
from eval.editrewardbench.pairwise import Order
from eval.editrewardbench.suite import SuiteConfig, run_suite
from eval.protocol import Thresholds
from eval.report import example_edits, example_pairs
from rrm.errors import InputError
from rrm.images import pixel_digest
from tests.support.reward_benchmarks import (
    SHADES,
    SIZE,
    compass_bench,
    editscore_row,
    genai_bench,
    genai_row,
    image_of,
    own_pairs,
    tiger_bench,
    tiger_row,
    write_parquet,
)  # fmt: skip


def scored(kind, where, limit=None, resize=False):
    """The pairs, and the scores of a judge that sees nothing but red."""
    pairs, scores = [], {}
    for row in read_benchmark(kind, str(where), limit, resize):
        pairs.append(row.pair)
        scores |= {
            name: image.getpixel((0, 0))[0] / 10
            for name, image in zip(pairs[-1].edit_ids, row.edited, strict=True)
        }
    return pairs, scores


def test_tigers_groups_are_read_from_their_folders_and_counted_whole(tmp_path):
    pairs, scores = scored("tiger", tiger_bench(tmp_path))
    assert [pair.label for pair in pairs] == [
        "a",
        "tie",
        "a",
        "a",
        "a",
        "b",
        "a",
        "a",
        "a",
        "a",
        "a",
        "b",
        "a",
        "a",
    ]
    assert [pair.candidates for pair in pairs] == [2] * 2 + [3] * 6 + [4] * 6
    assert {pair.group for pair in pairs} == {"2pair/1", "2pair/2", "3pair/1", "3pair/2", "4pair/1"}
    assert len({pair.item_id for pair in pairs}) == 14
    found = summarise("tiger", pairs, scores)["convention"]
    # wrong: the tie, whose edits are 3 apart, and the group whose last pair says B>C
    assert (found["overall"]["right"], found["overall"]["n"]) == (3, 5)
    assert summarise("tiger", pairs, scores, Thresholds(3.0))["convention"]["K=2"]["right"] == 1


def test_an_edit_that_recurs_in_its_group_is_one_edit(tmp_path):
    pairs, scores = scored("tiger", tiger_bench(tmp_path))
    assert len({name for pair in pairs if pair.group == "4pair/1" for name in pair.edit_ids}) == 4
    # sources 1 and 2; of each A, B and C are the same pixels whatever the group, and D is in one
    # group only
    assert len(scores) == 7


def test_a_limit_takes_whole_groups_of_every_k_even_where_their_rows_are_mixed(tmp_path):
    pairs, _ = scored("tiger", tiger_bench(tmp_path), limit=1)
    assert [pair.number for pair in pairs] == [0, 2, 4, 5, 8, 9, 10, 11, 12, 13]
    assert {pair.group for pair in pairs} == {"2pair/1", "3pair/1", "4pair/1"}


def test_edits_come_as_they_are_or_at_the_size_of_their_source_where_that_is_asked_for(tmp_path):
    where = str(tiger_bench(tmp_path))
    for plain, resized in zip(
        read_benchmark("tiger", where), read_benchmark("tiger", where, resize=True), strict=True
    ):
        assert {image.size for image in resized.edited} == {plain.source.size} == {SIZE}
        for one, other, before, after in zip(
            plain.edited, resized.edited, plain.pair.edited, resized.pair.edited, strict=True
        ):
            assert pixel_digest(other) == after
            assert (before == after) == (one.size == SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranking": "A>C"}, r"row 1: 'ranking' is 'A>C'"),
        ({"ranking": "best"}, r"row 1: 'ranking'"),
        ({"num_candidates": 5}, r"row 1: 'num_candidates' is 5; it must be 2, 3 or 4"),
        ({"instruction": " "}, r"row 1: 'instruction' must hold text"),
        ({"candidate_2": {"bytes": b"no image", "path": None}}, r"row 1: the image cannot be read"),
    ],
)
def test_a_row_of_tigers_that_cannot_be_used_is_named(tmp_path, change, message):
    path = write_parquet(
        tmp_path / "one.parquet", [{**tiger_row("1_0", 2, "A", "B", "A>B"), **change}]
    )
    with pytest.raises(InputError, match=message):
        list(read_benchmark("tiger", str(path)))


def test_genais_votes_are_read_from_its_editing_part_alone(tmp_path):
    pairs, scores = scored("genai", genai_bench(tmp_path))
    assert [pair.label for pair in pairs] == ["a", "b", "both_bad", "tie"]
    found = summarise("genai", pairs, scores, Thresholds(0.5, 3.0))
    assert {name: part["value"] for name, part in found["convention"].items()} == {
        "4-class": 0.75,
        "3-class": 0.5,
        "decisive": 0.5,
    }
    assert found["ties_in_gold"] == 2


def test_an_unknown_vote_is_named(tmp_path):
    path = write_parquet(
        tmp_path / "test_v1.parquet", [genai_row("leftvote", 9, 3), genai_row("left", 9, 3)]
    )
    with pytest.raises(
        InputError, match="row 2: 'vote_type' is 'left'; it must be one of leftvote, rightvote"
    ):
        list(read_benchmark("genai", str(path)))


def test_compass_is_a_list_in_json_judged_by_dimension(tmp_path):
    pairs, scores = scored("compass", compass_bench(tmp_path / "compass"))
    assert [(pair.dimension, pair.label) for pair in pairs] == [
        ("IA", "a"),
        ("VC", "a"),
        ("VQ", "tie"),
    ]
    found = summarise("compass", pairs, scores, Thresholds(0.25))["convention"]
    assert {name: part["value"] for name, part in found.items()} == {
        "IA": 1.0,
        "VC": 0.0,
        "VQ": 1.0,
        "macro": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dimension": "overall"},
            "item 3: 'dimension' is 'overall'; it must be one of IA, VC, VQ",
        ),
        ({"label": "win"}, "item 3: 'label' is 'win'; it must be one of preference, tie"),
        ({"loser": "images/none.png"}, "item 3: There is no image at"),
        ({"loser": "../outside.png"}, "item 3: .* leads out of"),
        ({"loser": "/etc/outside.png"}, "item 3: .* leads out of"),
    ],
)
def test_an_item_of_compass_that_cannot_be_used_is_named(tmp_path, change, message):
    image_of(1).save(tmp_path / "outside.png")
    with pytest.raises(InputError, match=message):
        list(read_benchmark("compass", str(compass_bench(tmp_path / "compass", **change))))


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    folder = compass_bench(tmp_path / "compass")
    image_of(1).save(tmp_path / "outside.png")
    (folder / "images" / "even.png").unlink()
    (folder / "images" / "even.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(InputError, match="leads out of"):
        list(read_benchmark("compass", str(folder)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "no rows"),
        ("[1]", "item 1: not a JSON object"),
        ("[", "is no JSON list"),
        ("[]", "no rows"),
    ],
)
def test_json_that_is_no_list_of_objects_is_refused(tmp_path, content, message):
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_benchmark("compass", str(tmp_path / "bench.json")))


def test_a_repository_of_files_is_downloaded_whole_at_its_revision(tmp_path, monkeypatch):
    import huggingface_hub

    # as in the hub's cache: files are links into blobs/
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "abc123"
    blobs.mkdir(parents=True)
    for number, file in enumerate(
        sorted(p for p in compass_bench(tmp_path / "compass").rglob("*") if p.is_file())
    ):
        link = snapshot / file.relative_to(tmp_path / "compass")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.rename(blobs / str(number)))
    asked = {}

    def snapshot_download(repo, repo_type, revision):
        asked.update(repo=repo, repo_type=repo_type, revision=revision)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert len(list(read_benchmark("compass", "DogNeverSleep/EditReward-Compass@abc123"))) == 3
    assert asked == {
        "repo": "DogNeverSleep/EditReward-Compass",
        "repo_type": "dataset",
        "revision": "abc123",
    }


def test_genai_on_the_hub_is_one_config_and_one_split(monkeypatch):
    import datasets

    asked = {}

    def load_dataset(path, name, revision, split):
        asked.update(path=path, name=name, revision=revision, split=split)
        columns = {"source_image", "left_output_image", "right_output_image"}
        rows = datasets.Dataset.from_list([genai_row("leftvote", 90, 30)])
        for column in columns:
            rows = rows.cast_column(column, datasets.Image())
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (row,) = read_benchmark("genai", "TIGER-Lab/GenAI-Bench")
    assert row.edited[0].getpixel((0, 0)) == (90, 0, 0)
    assert asked == {
        "path": "TIGER-Lab/GenAI-Bench",
        "name": "image_edition",
        "revision": None,
        "split": "test_v1",
    }


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import datasets

    def load_dataset(path, name, revision, split):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"cannot be loaded from the hub \(no route to host\)"):
        list(read_benchmark("genai", "TIGER-Lab/GenAI-Bench"))


def test_a_set_of_ones_own_may_say_same(tmp_path):
    path = own_pairs(
        tmp_path,
        {"label": "a", "id": "first", "task_type": "extract"},
        {"label": "b"},
        {"label": "same", "dimension": "consistency"},
    )
    pairs, scores = scored("jsonl", path)
    assert [(p.label, p.item_id, p.task_type, p.dimension) for p in pairs] == [
        ("a", "first", "extract", "overall"),
        ("b", "1", "all", "overall"),
        ("tie", "2", "all", "consistency"),
    ]
    found = summarise("jsonl", pairs, scores)["convention"]
    assert (found["strict"]["value"], found["same"]["n"]) == (0.5, 1)
    assert len(scores) == 2


def test_pairs_by_the_names_of_another_set_are_read_too(tmp_path):
    (row,) = read_benchmark(
        "jsonl", str(write_parquet(tmp_path / "x.parquet", [genai_row("rightvote", 90, 30)]))
    )
    assert (row.pair.label, row.pair.instruction, row.pair.candidates) == ("b", "make it red", 2)


def test_a_pair_without_a_label_is_told_what_it_lacks(tmp_path):
    with pytest.raises(
        InputError,
        match=r"line 1: no label.*; give source, instruction, edited_a, edited_b and label",
    ):
        list(read_benchmark("jsonl", str(own_pairs(tmp_path, {}))))


def test_a_photograph_on_its_side_is_turned_upright(tmp_path):
    path = own_pairs(tmp_path, {"label": "a", "source": "photo.jpg"})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image_of(80, (24, 16)).save(tmp_path / "photo.jpg", exif=exif)
    (row,) = read_benchmark("jsonl", str(path))
    assert row.source.size == (16, 24)
    assert row.edited[0].size == SIZE


def test_editscores_first_image_is_the_preferred_one_and_recurring_images_are_one_edit(tmp_path):
    rows = [
        editscore_row("A", "B"),
        editscore_row("B", "C"),
        editscore_row("A", "B", "consistency"),
    ]
    pairs, scores = scored(
        "editscore", write_parquet(tmp_path / "train.parquet", rows), resize=True
    )
    assert {pair.label for pair in pairs} == {"a"}
    assert len(scores) == 3
    assert len({pair.item_id for pair in pairs}) == 3
    found = summarise("editscore", pairs, scores)["convention"]
    assert (found["overall"]["value"], found["consistency"]["value"]) == (0.5, 1.0)
    assert open_benchmark("editscore", str(tmp_path / "train.parquet"), 1, True).pairs == [
        pairs[0],
        pairs[2],
    ]


def test_a_saved_dataset_is_read_with_its_images_still_encoded(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list([editscore_row("A", "B")])
    rows.cast_column("output_images", datasets.Sequence(datasets.Image())).save_to_disk(
        tmp_path / "saved"
    )
    (row,) = read_benchmark("editscore", str(tmp_path / "saved"))
    assert row.edited[0].getpixel((0, 0)) == (90, 0, 0)


@pytest.fixture
def no_hub(monkeypatch):
    """The hub is out of bounds; gives the ids that were asked for nevertheless."""
    import datasets
    import huggingface_hub

    asked = []

    def refuse(hub_id, /, **more):
        asked.append((hub_id, more["revision"]))
        raise ConnectionError("out of bounds")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    return asked


@pytest.mark.parametrize("kind", ["jsonl", "compass"])
@pytest.mark.parametrize(
    "where",
    [
        "bench/nope.jsonl",
        "nope/bench.json",
        "./nope",
        "../nope",
        "~/bench",
        "/nope/bench",
        "runs/nope",
        "runs/nope/bench",
        "nope",
    ],
)
def test_a_path_at_which_nothing_lies_is_refused_at_once_and_never_sought_on_the_hub(
    tmp_path, monkeypatch, no_hub, kind, where
):
    (tmp_path / "here" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(
        InputError, match=r"nothing lies there; give a folder, a \.jsonl, .* or a hub id"
    ) as error:
        list(read_benchmark(kind, where))
    assert str(error.value).startswith(f"{where} is no benchmark")
    assert no_hub == []


@pytest.mark.parametrize("kind", ["jsonl", "compass"])
def test_what_may_be_a_hub_id_is_sought_there_and_a_revision_tells_it_from_a_folder_of_its_owners_name(
    tmp_path, monkeypatch, no_hub, kind
):
    monkeypatch.chdir(tmp_path)
    for where in ("owner/name", "owner/name.v1@main", "owner/name@v1.0"):
        with pytest.raises(InputError, match="cannot be loaded from the hub"):
            list(read_benchmark(kind, where))
    (tmp_path / "owner").mkdir()
    with pytest.raises(InputError, match="nothing lies there"):
        list(read_benchmark(kind, "owner/name"))
    with pytest.raises(InputError, match="cannot be loaded from the hub"):
        list(read_benchmark(kind, "owner/name@main"))
    assert no_hub == [
        ("owner/name", None),
        ("owner/name.v1", "main"),
        ("owner/name", "v1.0"),
        ("owner/name", "main"),
    ]


def test_a_file_of_another_kind_is_no_benchmark(tmp_path, no_hub):
    (tmp_path / "bench.xlsx").write_text("a,b")
    with pytest.raises(InputError, match=r"bench\.xlsx is no benchmark: give a folder"):
        list(read_benchmark("jsonl", str(tmp_path / "bench.xlsx")))


def test_a_kind_that_is_none_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=f"'imagenet' is no kind of benchmark; name one of {', '.join(BENCHMARKS)}"
    ):
        list(read_benchmark("imagenet", str(tmp_path)))


@pytest.mark.parametrize("kind", ["tiger", "genai", "compass"])
def test_a_schema_of_another_benchmark_is_told_which_columns_it_lacks(tmp_path, kind):
    path = write_parquet(tmp_path / "train.parquet", [editscore_row("A", "B")])
    with pytest.raises(InputError, match=r"row 1 lacks .*; the columns of"):
        list(read_benchmark(kind, str(path)))


@given(st.sampled_from(["genai", "compass", "jsonl"]), st.integers(1, 6))
def test_a_limit_is_the_number_of_rows_of_a_benchmark_without_groups(tmp_path_factory, kind, limit):
    folder = tmp_path_factory.mktemp("bench")
    makers = {
        "genai": genai_bench,
        "compass": lambda f: compass_bench(f / "x"),
        "jsonl": lambda f: own_pairs(f, *[{"label": "a"}] * 4),
    }
    where = str(makers[kind](folder))
    every = [row.pair.item_id for row in read_benchmark(kind, where)]
    assert [row.pair.item_id for row in read_benchmark(kind, where, limit)] == every[:limit]


def test_a_judge_of_pairs_sees_both_orders(tmp_path):
    (row,) = read_benchmark("jsonl", str(own_pairs(tmp_path, {"label": "b"})))
    a, b = row.pair.edited
    assert a != b
    assert Order("key", row.pair, False).shown == (a, b)
    assert Order("key", row.pair, True).shown == (b, a)


def test_the_stage_evaluates_a_benchmark_of_another_kind_by_its_own_rules(tmp_path):
    where = own_pairs(tmp_path, {"label": "b", "edited_a": "D.png"}, {"label": "same"})
    table = tmp_path / "principles.jsonl"
    table.write_text(
        json.dumps(
            {
                "instruction": "make it red",
                "principles": [{"question": "Red?", "category": "follow"}],
            }
        )
    )
    out = tmp_path / "out"
    settings = {"data": str(where), "bench": "jsonl", "out": str(out), "principles": str(table)}
    result = run_suite(SuiteConfig(judges={"m": "baseline:chance"}, **settings), "run")
    summary = json.loads((out / "m" / "summary.json").read_text())
    assert result["models"]["m"]["n"] == 1
    assert summary["protocol"]["principled"]["overall"]["n"] == 1
    assert summary["protocol"]["convention"]["same"]["n"] == 1
    (example,) = example_pairs(read_examples(out / "m"))
    preferred = Image.open(out / "m" / example.images[2])
    assert [edit["preferred"] for edit in example_edits(out / "m", example)] == [True, False]
    assert abs(preferred.getpixel((0, 0))[0] - SHADES["B"]) < 3  # a JPEG


def test_edits_are_asked_about_together_only_while_their_images_have_room(monkeypatch):
    monkeypatch.setattr(judging, "BATCH_PIXELS", 1000)
    small, large = Image.new("RGB", (10, 10)), Image.new("RGB", (40, 40))
    wanted = [small] * 7 + [large, small, small, large, large]
    made = [
        [image.width for image in part]
        for part in judging.batches(iter(wanted), 4, lambda image: (image,))
    ]
    assert made == [[10] * 4, [10] * 3 + [40], [10, 10, 40], [40]]
    assert list(judging.batches(iter(()), 4, lambda image: (image,))) == []


MINE = '''
"""A benchmark whose label column is called better."""

from eval.protocol import Benchmark, Citation
from eval.pairs import pair_row
from eval.protocol import decisive


def row_of(row, labels):
    row.need(("before", "one", "two", "task", "better"), "mine")
    return pair_row(
        row,
        tuple(row.values[name] for name in ("before", "one", "two")),
        instruction=row.text("task"),
        label=row.choice("better", {"one": "a", "two": "b"}),
        item_id=str(row.number),
    )


BENCHMARK = Benchmark(
    name="mine",
    title="Mine, all mine",
    row_of=row_of,
    protocol=lambda pairs, scores, thresholds: {"decisive": decisive(pairs, scores)},
    citation=Citation("decisive", "of all pairs"),
)
'''


def test_a_benchmark_is_added_by_one_file_alone(tmp_path, monkeypatch, command):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(MINE)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path / "code")])
    monkeypatch.setattr(benchmarks, "BENCHMARKS", benchmarks.discovered())
    own_pairs(tmp_path, {"label": "a"})  # which writes images
    rows = [
        {"before": "C.png", "one": "A.png", "two": "B.png", "task": "redder", "better": side}
        for side in ("one", "two")
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ("--bench", "mine", "--data", tmp_path / "mine.jsonl", "--out", tmp_path / "out")
    code, printed, wrong = command("run", *where, "--reward", "baseline:more-change")
    assert code == 0, wrong
    assert "50.0%" in printed
    assert "of all pairs" in printed
    code, _, wrong = command("report", tmp_path / "out")
    assert code == 0, wrong
    assert "Mine, all mine" in (tmp_path / "out/report.html").read_text()
    with pytest.raises(
        InputError, match="row 1 lacks before, one, two, task, better; the columns of mine"
    ):
        list(
            read_benchmark(
                "mine", str(write_parquet(tmp_path / "x.parquet", [genai_row("leftvote", 90, 30)]))
            )
        )
