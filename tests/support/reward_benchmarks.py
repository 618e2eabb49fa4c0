"""Benchmarks of reward models as small files of the public schemas, in which an edit is a shade of
red."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZE = (12, 8)
SHADES = {"A": 90, "B": 60, "C": 70, "D": 20}
"""The red channel of an edit, by its letter; a tenth of it is its score."""
ALIKE = {"as_far_as_C": (20, 50, 0), "as_red_as_A": (90, 1, 0)}
"""Other images that are as far from D as C, and as red as A."""


def image_of(shade, size=SIZE):
    return Image.new("RGB", size, (shade, 0, 0))


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def cell(shade, size=SIZE):
    """An image as the hub stores it."""
    return {"bytes": png(image_of(shade, size)), "path": None}


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def tiger_row(name, candidates, first, second, ranking):
    return {
        "id": name,
        "dataset": "imgedit",
        "num_candidates": candidates,
        "instruction": "make it red",
        "source_image": cell(int(name.split("_")[0])),
        "candidate_1": cell(SHADES[first], (24, 16)),
        "candidate_2": cell(SHADES[second], (24, 16)),
        "ranking": ranking,
        "comparison_type": f"{first}vs{second}",
        "model_1": "x",
        "model_2": "y",
        "score_1": 4.0,
        "score_2": 3.0,
    }


def tiger_bench(folder):
    """Two groups of two, two of three, one of four, laid out as on the hub; the order by shade is A
    > C > B > D."""
    two = [tiger_row("1_0", 2, "A", "B", "A>B"), tiger_row("2_0", 2, "A", "B", "A=B")]
    three = [
        tiger_row("1_0", 3, "A", "B", "A>B"),
        tiger_row("2_0", 3, "A", "B", "A>B"),
        tiger_row("1_1", 3, "A", "C", "A>C"),
        tiger_row("1_2", 3, "B", "C", "C>B"),
        tiger_row("2_1", 3, "A", "C", "A>C"),
        tiger_row("2_2", 3, "B", "C", "B>C"),
    ]
    letters = [("A", "B"), ("A", "C"), ("A", "D"), ("B", "C"), ("B", "D"), ("C", "D")]
    best_first = "ACBD"
    four = [
        tiger_row(f"1_{n}", 4, a, b, ">".join(sorted((a, b), key=best_first.index)))
        for n, (a, b) in enumerate(letters)
    ]
    for name, rows in (("2pair", two), ("3pair", three), ("4pair", four)):
        write_parquet(folder / name / "test-00000-of-00001.parquet", rows)
    return folder


def genai_row(vote, left, right):
    edits = {"left_output_image": cell(left), "right_output_image": cell(right)}
    prompts = {
        "source_prompt": "a cat",
        "target_prompt": "a red cat",
        "instruct_prompt": "make it red",
    }
    return {**prompts, "source_image": cell(left + right), **edits, "vote_type": vote}


def genai_bench(folder):
    """The editing part beside what the repository also holds."""
    rows = [
        genai_row("leftvote", 90, 30),
        genai_row("rightvote", 50, 45),
        genai_row("bothbad_vote", 10, 20),
        genai_row("tievote", 60, 64),
    ]
    write_parquet(folder / "image_edition" / "test_v1-00000-of-00001.parquet", rows)
    write_parquet(folder / "image_edition" / "test-00000-of-00001.parquet", rows[:1])
    write_parquet(
        folder / "image_generation" / "test_v1-00000-of-00001.parquet", [{"prompt": "a cat"}]
    )
    return folder


def compass_bench(folder, **change):
    """A list in data/, with images relative to the repository's folder."""
    (folder / "images").mkdir(parents=True)
    (folder / "data").mkdir()
    for name, shade in (("source", 5), ("good", 80), ("poor", 40), ("even", 42)):
        image_of(shade).save(folder / "images" / f"{name}.png")
    kept = {"source_image": "images/source.png", "prompt": "make it red"}
    items = [
        {
            **kept,
            "dimension": "IA",
            "winner": "images/good.png",
            "loser": "images/poor.png",
            "label": "preference",
        },
        {
            **kept,
            "dimension": "VC",
            "winner": "images/poor.png",
            "loser": "images/good.png",
            "label": "preference",
        },
        {
            **kept,
            "dimension": "VQ",
            "winner": "images/poor.png",
            "loser": "images/even.png",
            "label": "tie",
            **change,
        },
    ]
    (folder / "data" / "bench.json").write_text(json.dumps(items))
    return folder


def own_pairs(folder, *rows):
    for letter, shade in SHADES.items():
        image_of(shade).save(folder / f"{letter}.png")
    for letter, colour in ALIKE.items():
        Image.new("RGB", SIZE, colour).save(folder / f"{letter}.png")
    path = folder / "pairs.jsonl"
    kept = {
        "source": "D.png",
        "instruction": "make it red",
        "edited_a": "A.png",
        "edited_b": "B.png",
    }
    path.write_text("".join(json.dumps({**kept, **row}) + "\n" for row in rows))
    return path


def editscore_row(first, second, dimension="overall"):
    images = {
        "input_image": cell(5),
        "output_images": [cell(SHADES[first], (24, 16)), cell(SHADES[second])],
    }
    return {
        "key": [first, second],
        "instruction": "make it red",
        **images,
        "task_type": "extract",
        "dimension": dimension,
    }
