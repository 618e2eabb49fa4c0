"""The whole pipeline on real photographs in files of every kind."""

from data_pipeline.perf.photographs import measure


def test_sizes_orientations_and_verdicts_of_real_photographs_are_right_and_broken_files_are_quarantined():
    found = measure(
        side=320,
        instructions=("mirror the photo left to right and make it black and white",),
        edits=2,
        large=False,
    )
    assert found["sizes_right"] == found["orientations_right"] == found["photographs"] == 6
    assert found["broken_quarantined"] == found["broken_files"]
    assert found["sft_rows"] == found["quadruples"] == found["candidates"] == 12
    assert found["gold_equals_truth"] > 0.97
