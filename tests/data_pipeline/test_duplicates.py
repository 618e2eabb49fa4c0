"""Near-duplicates, clusters and splits: against brute force, and on photos and the sandbox's
scenes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from data_pipeline.duplicates import (
    BITS,
    LEVELS,
    Look,
    Looks,
    clusters,
    look_of,
    near_pairs,
    normalised,
    split_of,
)
from data_pipeline.duplicates import stacked as stack
from rrm.errors import InputError
from rrm.sandbox.edits import apply_step, sample_steps
from rrm.sandbox.world import Scene, draw, sample_scene

PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "camera",
    "coins",
    "moon",
    "brick",
    "grass",
    "gravel",
)


@pytest.fixture(scope="module")
def photos() -> dict[str, Image.Image]:
    """Photos that come with scikit-image, and a crop of each."""
    data = pytest.importorskip("skimage.data")
    found = {}
    for name in PHOTOS:
        photo = Image.fromarray(getattr(data, name)()).convert("RGB")
        found[name] = photo
        found[f"{name}, cropped"] = photo.crop(
            (photo.width // 3, photo.height // 3, photo.width, photo.height)
        )
    return found


def encoded(image: Image.Image, encoding: str, quality: int) -> Image.Image:
    """The image after a lossy round trip."""
    buffer = io.BytesIO()
    image.save(buffer, encoding, quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    """The image at another size."""
    return image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
    )


def stacked(looks: Iterable[Look]) -> Looks:
    return stack(look.to_bytes() for look in looks)


def near(a: Look, b: Look, bits: int, levels: int) -> bool:
    """The definition, one value at a time."""
    apart = (int.from_bytes(a.phash, "big") ^ int.from_bytes(b.phash, "big")).bit_count()
    return apart <= bits and all(
        abs(x - y) <= levels for x, y in zip(a.thumbnail, b.thumbnail, strict=True)
    )


def same(a: Image.Image, b: Image.Image) -> bool:
    """Whether two images are near-duplicates by default."""
    return list(near_pairs(stacked([look_of(a), look_of(b)]))) == [(0, 1)]


def made(seed: int, phash: int | None = None) -> Look:
    """A random look whose thumbnail leaves room for a shift in either direction."""
    rng = np.random.default_rng(seed)
    bits = rng.bytes(8) if phash is None else phash.to_bytes(8, "big")
    return Look(bits, rng.integers(40, 200, 192, dtype=np.uint8).tobytes())


def shifted(look: Look, bits: Iterable[int] = (), by: int = 0, at: int = 0) -> Look:
    """The look with some bits of its hash flipped and one value of its thumbnail moved."""
    flips = sum(1 << bit for bit in bits)
    values = bytearray(look.thumbnail)
    values[at] += by
    return Look((int.from_bytes(look.phash, "big") ^ flips).to_bytes(8, "big"), bytes(values))


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest index that each can reach, by spreading it until nothing changes."""
    ids, pairs = list(range(count)), list(pairs)
    while True:
        before = list(ids)
        for i, j in pairs:
            ids[i] = ids[j] = min(ids[i], ids[j])
        if ids == before:
            return ids


def test_a_plain_half_red_half_blue_image_has_the_thumbnail_one_expects() -> None:
    image = Image.new("RGB", (64, 32), (255, 0, 0))
    image.paste((0, 0, 255), (0, 16, 64, 32))
    rows = np.frombuffer(look_of(image).thumbnail, np.uint8).reshape(8, 8, 3)
    assert (rows[:3] == (255, 0, 0)).all()
    assert (rows[5:] == (0, 0, 255)).all()


def test_a_look_takes_200_bytes_and_comes_back_from_them() -> None:
    look = look_of(draw(sample_scene(np.random.default_rng(3))))
    assert len(look.to_bytes()) == 200
    assert Look.from_bytes(look.to_bytes()) == look


def test_bytes_that_are_no_look_are_refused() -> None:
    with pytest.raises(InputError, match="200 bytes, not 199"):
        Look.from_bytes(bytes(199))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: encoded(image, "JPEG", 60), id="JPEG"),
        pytest.param(lambda image: encoded(image, "WEBP", 60), id="WebP"),
        pytest.param(lambda image: resized(image, 0.5), id="half"),
        pytest.param(lambda image: resized(image, 0.37), id="an odd size"),
        pytest.param(lambda image: resized(image, 2), id="double"),
        pytest.param(lambda image: encoded(resized(image, 0.5), "JPEG", 60), id="half, JPEG"),
        pytest.param(
            lambda image: image.resize((512, 512), Image.Resampling.BICUBIC), id="squared"
        ),
    ],
)
def test_a_photo_is_found_again_in_another_encoding_or_size(
    photos: dict[str, Image.Image], change: Callable[[Image.Image], Image.Image]
) -> None:
    missed = [name for name, photo in photos.items() if not same(photo, change(photo))]
    assert not missed


def test_different_photos_and_crops_of_one_photo_are_not_merged(
    photos: dict[str, Image.Image],
) -> None:
    assert not list(near_pairs(stacked(look_of(photo) for photo in photos.values())))


def test_a_photo_with_an_object_on_a_64th_of_it_recoloured_is_another_picture(
    photos: dict[str, Image.Image],
) -> None:
    rng = np.random.default_rng(0)
    merged = []
    for name, photo in photos.items():
        pixels = np.array(photo)
        height, width = pixels.shape[0] // 8, pixels.shape[1] // 8
        top, left = (
            rng.integers(0, pixels.shape[0] - height),
            rng.integers(0, pixels.shape[1] - width),
        )
        patch = pixels[top : top + height, left : left + width, int(rng.integers(3))]
        patch[:] = np.where(patch.mean() > 127, patch.clip(60) - 60, patch.clip(0, 195) + 60)
        if same(photo, Image.fromarray(pixels)):
            merged.append(name)
    assert not merged


def test_an_object_removed_across_four_cells_of_the_thumbnail_is_seen() -> None:
    empty = Image.new("RGB", (512, 512), (120, 110, 90))
    scene = empty.copy()
    ImageDraw.Draw(scene).rectangle((224, 224, 287, 287), fill=(200, 110, 90))
    assert not same(empty, scene)


def test_colour_alone_tells_pictures_apart_where_the_hash_does_not() -> None:
    red, green = (Image.new("RGB", (64, 64), colour) for colour in ((200, 0, 0), (0, 102, 0)))
    assert look_of(red).phash == look_of(green).phash
    assert not same(red, green)


def test_different_scenes_of_the_sandbox_are_never_merged() -> None:
    rng = np.random.default_rng(0)
    scenes: dict[object, Scene] = {}
    while len(scenes) < 2000:
        scene = sample_scene(rng, held_out=bool(rng.integers(2)))
        scenes[
            (scene.background, tuple(thing.name if thing else None for thing in scene.cells))
        ] = scene
    assert not list(near_pairs(stacked(look_of(draw(scene)) for scene in scenes.values())))


def test_no_edit_of_a_sandbox_scene_counts_as_its_source() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = sample_scene(rng)
        (step,) = sample_steps(rng, scene, multi_share=0.0)
        assert not same(draw(scene), draw(apply_step(scene, step)))


@pytest.mark.parametrize(
    ("flipped", "by", "found"),
    [
        ((), 0, True),
        (range(BITS), LEVELS, True),
        (range(BITS), -LEVELS, True),
        (range(BITS + 1), 0, False),
        ((), LEVELS + 1, False),
        ((), -LEVELS - 1, False),
        (range(0, 64, 64 // BITS), LEVELS, True),
    ],
)
@pytest.mark.parametrize("at", [0, 101, 191])
def test_both_thresholds_include_their_value_and_nothing_beyond(
    flipped: Iterable[int], by: int, found: bool, at: int
) -> None:
    look = made(0)
    pair = stacked([look, shifted(look, flipped, by, at)])
    assert list(near_pairs(pair)) == ([(0, 1)] if found else [])
    assert list(near_pairs(pair[:1], pair[1:])) == ([(0, 0)] if found else [])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(0, 16), levels=st.integers(0, 30))
def test_near_pairs_equal_brute_force_on_planted_neighbours(
    seed: int, bits: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    looks = [made(int(rng.integers(2**32))) for _ in range(20)]
    for look in list(looks):
        for beyond_bits, beyond_levels in ((0, 0), (1, 0), (0, 1)):
            flips = rng.permutation(64)[: bits + beyond_bits].tolist()
            by = int(rng.choice((-1, 1))) * (levels + beyond_levels)
            looks.append(shifted(look, flips, by, int(rng.integers(192))))
    order = rng.permutation(len(looks))
    looks = list({looks[i]: None for i in order})
    expected = {
        (i, j)
        for i, j in combinations(range(len(looks)), 2)
        if near(looks[i], looks[j], bits, levels)
    }
    assert len(expected) >= (20 if bits or levels else 0)
    assert sorted(near_pairs(stacked(looks), None, bits, levels)) == sorted(expected)
    left, right = looks[:31], looks[31:]
    across = [
        (i, j) for i, a in enumerate(left) for j, b in enumerate(right) if near(a, b, bits, levels)
    ]
    assert sorted(near_pairs(stacked(left), stacked(right), bits, levels)) == across


def test_pairs_are_found_wherever_they_lie_in_a_large_array() -> None:
    rng = np.random.default_rng(0)
    looks = rng.integers(40, 200, (9000, 200), dtype=np.uint8)
    planted = [(0, 8999), (63, 64), (100, 4196), (4095, 4096), (5000, 5001)]
    for i, j in planted:
        looks[j] = looks[i]
        looks[j, [3, 77]] ^= 1
    assert sorted(near_pairs(looks)) == planted
    assert sorted(near_pairs(looks[:4500], looks[4500:])) == [(0, 4499)]


def test_thousands_of_equal_looks_make_one_pair_each_and_one_cluster() -> None:
    white, grey = (
        look_of(Image.new("RGB", (8, 8), "white")),
        look_of(Image.new("RGB", (8, 8), (250, 250, 250))),
    )
    looks = stacked([made(0), *[white] * 3000, grey, *[white] * 3000])
    pairs = list(near_pairs(looks))
    assert len(pairs) == 6000
    assert clusters(len(looks), pairs).tolist() == [0, *[1] * 6001]
    assert sorted(near_pairs(looks[:3], looks[3000:])) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_hundreds_of_plain_colours_share_a_hash_and_are_told_apart_by_their_thumbnails() -> None:
    colours = np.random.default_rng(0).integers(0, 60, (400, 3), dtype=np.uint8)
    looks = stacked(Look(bytes(8), colour.tobytes() * 64) for colour in np.unique(colours, axis=0))
    values = looks[:, 8:11].astype(int)
    apart = np.abs(values[:, None] - values).max(axis=2)
    expected = [(i, j) for i, j in np.argwhere(apart <= LEVELS).tolist() if i < j]
    assert len(expected) > 100
    assert sorted(near_pairs(looks)) == expected


def test_no_looks_have_no_pairs() -> None:
    nothing, one = stacked([]), stacked([made(0)])
    assert nothing.shape == (0, 200)
    assert (
        list(near_pairs(nothing))
        == list(near_pairs(one))
        == list(near_pairs(one, nothing))
        == list(near_pairs(nothing, one))
        == []
    )


def test_clusters_are_transitive_and_named_by_their_smallest_index() -> None:
    assert clusters(7, [(5, 6), (3, 5), (1, 4)]).tolist() == [0, 1, 2, 3, 1, 3, 3]
    assert clusters(3, []).tolist() == [0, 1, 2]


def test_a_chain_of_near_duplicates_is_one_cluster_though_its_ends_are_apart() -> None:
    look = made(0)
    chain = [look, shifted(look, by=LEVELS), shifted(look, by=2 * LEVELS)]
    pairs = list(near_pairs(stacked(chain)))
    assert pairs == [(0, 1), (1, 2)]
    assert clusters(3, pairs).tolist() == [0, 0, 0]


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), max_size=40)
        )
    )
)
def test_clusters_equal_spreading_the_smallest_index(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    count, pairs = case
    assert clusters(count, pairs).tolist() == groups(count, pairs)


def test_clusters_of_more_pairs_than_are_held_at_once_join_across_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("data_pipeline.duplicates.PAIRS_AT_ONCE", 3)
    rng = np.random.default_rng(0)
    pairs = [(int(i), int(j)) for i, j in rng.integers(0, 60, (45, 2))]
    ids = clusters(60, iter(pairs)).tolist()
    assert ids == groups(60, pairs)
    assert 1 < len(set(ids)) < 60


def test_a_split_takes_its_share_and_stays_as_it_is() -> None:
    keys = [f"key {i}" for i in range(10_000)]
    sides = {key: split_of(key, seed=0, validation_share=0.1) for key in keys}
    # four standard deviations of a binomial with p = 0.1 are 120
    assert abs(sum(side == "validation" for side in sides.values()) - 1000) < 120
    assert sides == {key: split_of(key, seed=0, validation_share=0.1) for key in reversed(keys)}


def test_a_larger_share_only_adds_to_validation_and_another_seed_draws_anew() -> None:
    keys = [f"key {i}" for i in range(2000)]

    def chosen(seed: int, share: float) -> set[str]:
        return {key for key in keys if split_of(key, seed, share) == "validation"}

    assert chosen(0, 0.0) == set()
    assert chosen(0, 1.0) == set(keys)
    assert chosen(0, 0.1) < chosen(0, 0.3)
    # independent draws share a tenth of a tenth: 20 of 2,000
    assert len(chosen(0, 0.1) & chosen(1, 0.1)) < 60


def test_the_split_of_a_key_is_the_one_that_sha256_gives() -> None:
    # sha256("7:abc") begins with 0xd9d02ef4: 0.8508 of the way
    assert split_of("abc", seed=7, validation_share=0.85) == "train"
    assert split_of("abc", seed=7, validation_share=0.86) == "validation"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("  Make the Red circle BLUE. ", "make red circle blue"),
        ("Don’t change a thing!", "dont change thing"),
        ("remove\tthe\u00a0tree , please", "remove tree please"),
        ("Ｍａｋｅ　ｉｔ ＢＬＵＥ！", "make it blue"),
        ("把背景换成夜晚。", "把背景换成夜晚"),
        ("Straße → STRASSE", "strasse → strasse"),
        ("re\u200bmove the \ufb01sh", "remove fish"),
        ("add 5°C", "add 5°c"),
        ("theatre and anthem", "theatre and anthem"),
        ("?!", "?!"),
        ("The", "the"),
    ],
)
def test_an_instruction_is_normalised(written: str, expected: str) -> None:
    assert normalised(written) == expected


@given(st.text("aAtheTHE .,'’-éＥß中\u200b", max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
