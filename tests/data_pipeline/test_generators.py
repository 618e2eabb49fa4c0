"""Editors that make candidates: real diffusers pipelines in miniature, and the sandbox's images API
through the openai client."""

import asyncio
import base64
import json
import urllib.request

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from fastapi import FastAPI, Response
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from data_pipeline.generators import Generator, fitted, open_generator, working_size
from eval.editors.__main__ import main as run_editor_bench
from rrm.errors import InputError
from rrm.images import png_bytes
from rrm.records import Failure
from rrm.sandbox import images_api
from rrm.sandbox.edits import Step, apply_step, parse_instruction
from rrm.sandbox.models.verifier import build_model, build_processor
from rrm.sandbox.reading import read_scene
from rrm.sandbox.world import Scene, Thing, draw
from tests.support.editor_benchmarks import served

SCENE = Scene("gray", (Thing("red", "circle"), None, Thing("blue", "square"), None))
INSTRUCTION = "make the red circle green"
SOURCE = draw(SCENE)


def picture(width, height, seed=0):
    """A smooth picture: noise would not survive being scaled."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def edited_by(config, *requests):
    """What one editor makes of each (source, instruction, seed)."""

    async def ask():
        editor = open_generator(config)
        try:
            return [await editor.edit(*request) for request in requests]
        finally:
            await editor.close()

    return asyncio.run(ask())


def word_tokenizer(length):
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "make": 3, "it": 4, "blue": 5, "red": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **special)


def flux_parts():
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": AutoencoderKL(
            block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2, shift_factor=0.0,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            use_quant_conv=False, use_post_quant_conv=False,
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=8, eos_token_id=1, max_position_embeddings=77, **text)),
        "tokenizer": word_tokenizer(77),
        "text_encoder_2": T5EncoderModel(T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
        "tokenizer_2": word_tokenizer(512),
        "transformer": FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6), guidance_embeds=True,
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def kontext(tmp_path_factory):
    """A folder with an untrained FLUX.1-Kontext; sizes go in steps of 4."""
    folder = tmp_path_factory.mktemp("kontext")
    FluxKontextPipeline(**flux_parts()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=[QwenImageEditPipeline, QwenImageEditPlusPipeline])
def qwen(request, tmp_path_factory):
    """A folder with an untrained Qwen-Image-Edit; its VAE shrinks by 16, not 8, for a source is
    shown to it in a megapixel."""
    folder = tmp_path_factory.mktemp("qwen")
    processor = build_processor()
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=2, z_dim=4, dim_mult=[1] * 5, num_res_blocks=1, temperal_downsample=[False, True, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=1, joint_attention_dim=32,
        axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    request.param(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=build_model(processor, hidden=32, layers=1),
        tokenizer=processor.tokenizer,
        processor=processor,
        transformer=transformer,
    ).save_pretrained(folder)
    return str(folder)


def local(model, **settings):
    return Generator(
        **{
            "name": "tiny",
            "kind": "diffusers",
            "model": model,
            "dtype": "float32",
            "device": "cpu",
            "sampling_steps": 1,
            **settings,
        }
    )


def test_kontext_edits_at_the_sources_size_and_the_seed_decides(kontext):
    source = picture(30, 19)
    first, again, other, asked = edited_by(
        local(kontext, sampling_steps=2, guidance=2.5),
        (source, "make it blue", 0),
        (source, "make it blue", 0),
        (source, "make it blue", 1),
        (source, "make it red", 0),
    )
    assert first.size == (30, 19)
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert len({first.tobytes(), other.tobytes(), asked.tobytes()}) == 3


def test_kontext_looks_at_the_source(kontext):
    first, other = edited_by(
        local(kontext),
        (picture(16, 24, 0), "make it blue", 0),
        (picture(16, 24, 1), "make it blue", 0),
    )
    assert first.size == other.size == (16, 24)
    assert first.tobytes() != other.tobytes()


def test_kontext_works_at_a_fixed_size_where_one_is_given(kontext):
    source = picture(30, 20)
    (own,), (fixed,) = (
        edited_by(local(kontext, dtype="bfloat16", **size), (source, "make it blue", 0))
        for size in ({}, {"width": 48, "height": 32})
    )
    assert own.size == fixed.size == (30, 20)
    assert own.tobytes() != fixed.tobytes()


def test_kontext_is_guided_away_from_a_blank_prompt_where_true_cfg_is_set(kontext):
    plain, guided = (
        edited_by(local(kontext, true_cfg=cfg), (picture(16, 16), "make it blue", 0))[0].tobytes()
        for cfg in (None, 6.0)
    )
    assert plain != guided


def test_qwen_image_edit_edits_at_the_sources_size_and_the_seed_decides(qwen):
    requests = ((picture(48, 32), "make it blue", seed) for seed in (0, 0, 1))
    first, again, other = edited_by(local(qwen, width=96, height=64, true_cfg=4.0), *requests)
    assert first.size == (48, 32)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_gedits_edits_are_made_by_a_pipeline_through_the_command(
    kontext, tmp_path, monkeypatch, capsys
):
    rows = [
        {
            "task_type": task,
            "key": key,
            "instruction": words,
            "instruction_language": language,
            "input_image": f"{key}.png",
        }
        for task, key, words, language in (
            ("color_alter", "a", "make it blue", "en"),
            ("subject-remove", "b", "make it red", "en"),
            ("color_alter", "a", "make it blue", "cn"),
        )
    ]
    bench, outputs, settings = tmp_path / "bench", tmp_path / "outputs", tmp_path / "editor.yaml"
    bench.mkdir()
    for number, name in enumerate("ab"):
        picture(30, 20, number).save(bench / f"{name}.png")
    (bench / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings.write_text(
        yaml.safe_dump(local(kontext).model_dump(mode="json", exclude_defaults=True))
    )
    line = [
        "gedit",
        "sample",
        "--bench",
        str(bench),
        "--editor",
        str(settings),
        "--outputs",
        str(outputs),
    ]
    monkeypatch.setattr("sys.argv", ["eval.editors", *line])
    run_editor_bench()
    assert "2 edits, 0 there already, 2 made, 0 failed" in capsys.readouterr().out
    made = sorted(str(path.relative_to(outputs)) for path in outputs.rglob("*.png"))
    assert made == ["tiny/fullset/color_alter/en/a.png", "tiny/fullset/subject-remove/en/b.png"]
    (direct,) = edited_by(local(kontext), (picture(30, 20, 0), "make it blue", 0))
    with Image.open(outputs / made[0]) as written:
        assert written.tobytes() == direct.tobytes()
    run_editor_bench()
    assert "2 edits, 2 there already, 0 made, 0 failed" in capsys.readouterr().out


def test_a_pipeline_that_takes_no_image_is_refused(tmp_path):
    FluxPipeline(**flux_parts()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="FluxPipeline, which takes no image"):
        open_generator(local(str(tmp_path)))


def test_a_folder_without_a_pipeline_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(
        InputError, match=r"cannot be loaded from .*model_index.json.*; give a pipeline's folder"
    ) as raised:
        open_generator(local(str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_a_pipeline_with_a_part_missing_is_refused(tmp_path):
    index = {
        "_class_name": "FluxKontextPipeline",
        "_diffusers_version": "0.36.0",
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="cannot be loaded"):
        open_generator(local(str(tmp_path)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("settings", [{"device": "cuda"}, {"device": "auto", "offload": True}])
def test_a_gpu_that_is_not_there_is_missed_before_anything_is_loaded(tmp_path, settings):
    with pytest.raises(InputError, match="wants a GPU and there is none"):
        open_generator(local(str(tmp_path), **settings))


def test_a_working_size_is_near_the_source_and_no_more_than_the_most():
    assert working_size((30, 19), 4, 1024**2) == (32, 20)  # 7.5 rounds to 8, 4.75 to 5
    assert working_size((512, 768), 16, 1024**2) == (512, 768)
    # by .29561: 1182.4 and 886.8, so 73.9 and 55.4 sixteens
    assert working_size((4000, 3000), 16, 1024**2) == (1184, 880)
    assert working_size((3, 100), 16, 1024**2) == (16, 96)


def test_an_edit_of_the_same_shape_is_brought_to_size_and_another_is_left_alone():
    assert fitted(picture(1024, 672), (600, 400)).size == (600, 400)  # 1.524 against 1.5
    assert fitted(picture(64, 64), (64, 48)).size == (64, 64)
    assert fitted(picture(64, 64), (64, 48), stretched=True).size == (64, 48)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "openai", "sampling_steps": 4}, "has no 'sampling_steps'"),
        ({"kind": "diffusers", "size": "auto"}, "has no 'size'"),
        ({"kind": "diffusers", "height": 512}, "give both or neither"),
        ({"kind": "openai", "extra": {"seed": 3}}, "holds 'seed'"),
        ({"kind": "openai", "seeds": ()}, "seeds"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Generator(name="e", model="m", **settings)


def test_a_key_changes_with_what_the_edit_depends_on_and_with_nothing_else():
    plain = Generator(name="e", kind="diffusers", model="m")
    key = plain.key("a", "make it blue", 0)
    moved = Generator(name="f", kind="diffusers", model="m", seeds=(5,), device="cpu", offload=True)
    assert moved.key("a", "make it blue", 0) == key
    changed = [
        plain.key("b", "make it blue", 0),
        plain.key("a", "make it red", 0),
        plain.key("a", "make it blue", 1),
        *(
            Generator(**{"name": "e", "kind": "diffusers", "model": "m", **other}).key(
                "a", "make it blue", 0
            )
            for other in (
                {"model": "n"},
                {"revision": "r"},
                {"sampling_steps": 4},
                {"guidance": 1.0},
                {"true_cfg": 4.0},
                {"dtype": "float32"},
            )
        ),
    ]
    assert len({key, *changed}) == 1 + len(changed)
    server = [
        Generator(name="e", kind="openai", model="m", base_url=url).key("a", "x", 0)
        for url in ("http://a/v1", "http://b/v1")
    ]
    assert server[0] == server[1] != key


@pytest.fixture(scope="module")
def sandbox():
    app = FastAPI()
    app.include_router(images_api.router)
    with served(app) as url:
        yield url


def remote(url, **settings):
    return Generator(
        **{
            "name": "remote",
            "kind": "openai",
            "model": images_api.MODEL,
            "base_url": url,
            **settings,
        }
    )


def test_the_sandboxs_editor_is_right_in_its_share_of_seeds_and_a_seed_repeats_its_edit(sandbox):
    requests = [(SOURCE, INSTRUCTION, seed) for seed in range(60)]
    first, second = edited_by(remote(sandbox), *requests), edited_by(remote(sandbox), *requests)
    assert {image.size for image in first} == {SOURCE.size}
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]
    right = draw(apply_step(SCENE, Step("recolour", "red", "circle", "green"))).tobytes()
    share = np.mean([image.tobytes() == right for image in first])
    assert 0.2 < share < 0.6  # 0.4 ± 3 standard errors of 0.063
    assert len({image.tobytes() for image in first}) > 8


def test_any_scene_it_can_read_it_can_edit(sandbox):
    prompt = "add a yellow triangle at top right and make the background tan"
    edits = edited_by(remote(sandbox), *((SOURCE, prompt, seed) for seed in range(40)))
    done = apply_step(apply_step(SCENE, parse_instruction(prompt)[0]), parse_instruction(prompt)[1])
    assert any(image.tobytes() == draw(done).tobytes() for image in edits)
    assert any(read_scene(image).background == "gray" for image in edits)


def test_an_edit_of_another_size_comes_back_at_the_sources(sandbox):
    (own,), (larger,) = (
        edited_by(remote(sandbox, **size), (SOURCE, INSTRUCTION, 3))
        for size in ({}, {"size": "64x64"})
    )
    assert own.size == larger.size == SOURCE.size
    (other,) = edited_by(remote(sandbox, size="64x32"), (SOURCE, INSTRUCTION, 3))
    assert other.size == (64, 32)


@pytest.mark.parametrize(
    ("source", "instruction", "why"),
    [
        (SOURCE, "paint it like Vermeer", "does not understand"),
        (SOURCE, "make the yellow circle green", "no yellow circle"),
        (
            SOURCE,
            "make the red circle green and remove the red circle",
            "one thing with one object",
        ),
        (Image.effect_noise((16, 16), 120).convert("RGB"), "make the background tan", "no scene"),
    ],
)
def test_what_the_server_refuses_is_a_failure(sandbox, source, instruction, why):
    (failure,) = edited_by(remote(sandbox), (source, instruction, 0))
    assert isinstance(failure, Failure)
    assert failure.kind == ("image_unreadable" if "no scene" in why else "bad_row")
    assert why in failure.detail


def test_a_wrong_model_stops_the_run(sandbox):
    with pytest.raises(InputError, match=r"'gpt-none' does not exist.*; correct the model's name"):
        edited_by(remote(sandbox, model="gpt-none"), (SOURCE, INSTRUCTION, 0))


def test_a_server_that_is_gone_is_a_failure():
    (failure,) = edited_by(remote("http://127.0.0.1:1/v1", retries=0), (SOURCE, INSTRUCTION, 0))
    assert failure.kind == "server_gone"


def test_openai_itself_wants_a_key(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(InputError, match="SOME_KEY"):
        open_generator(
            Generator(name="e", kind="openai", model="gpt-image-1", key_variable="SOME_KEY")
        )


def post(url, parts, content_type='multipart/form-data; boundary="xx"'):
    """Status and error parameter, or the answer, of a form that is written by hand."""
    body = b"".join(
        b'--xx\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in parts
    )
    request = urllib.request.Request(
        f"{url}/images/edits", body + b"--xx--\r\n", {"Content-Type": content_type}
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["param"]


def test_the_form_is_read_byte_for_byte_and_checked(sandbox):
    good = [("image", png_bytes(SOURCE)), ("prompt", INSTRUCTION.encode()), ("seed", b"1")]
    status, answer = post(sandbox, [*good, ("n", b"3")])
    assert status == 200
    assert len({item["b64_json"] for item in answer["data"]}) > 1
    assert post(sandbox, good, "application/json") == (400, None)
    assert post(sandbox, [("image", png_bytes(SOURCE)[:60]), *good[1:]]) == (400, "image")
    assert post(sandbox, [*good, ("image[]", png_bytes(SOURCE))]) == (400, "image")
    for name, value in (("n", b"11"), ("size", b"0x16"), ("response_format", b"url")):
        assert post(sandbox, [*good, (name, value)]) == (400, name)
    assert post(sandbox, [*good[:2], ("seed", b"-1")]) == (400, "seed")
    payload = bytes(range(256)) + b"\r\r\n\n--x\r\n\r\n"
    form = (
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + payload + b"\r\n--b--\r\n"
    )
    assert images_api.form_fields("multipart/form-data; boundary=b", form) == {"image": payload}


def b64_answer(payload):
    return {"data": [{"b64_json": base64.b64encode(payload).decode()}]}


ANSWERS = {
    "bytes": (200, b64_answer(b"no image"), "image_unreadable"),
    "base64": (200, {"data": [{"b64_json": "!!!"}]}, "image_unreadable"),
    "number": (200, {"data": [{"b64_json": 3}]}, "unparseable"),
    "url": (200, {"data": [{"url": "http://127.0.0.1/a.png"}]}, "empty"),
    "nothing": (200, {"data": []}, "unparseable"),
    "list": (200, [], "server_gone"),
    "text": (200, "<html>", "server_gone"),
    "error": (200, {"error": {"message": "upstream broke"}}, "server_gone"),
    "policy": (
        400,
        {"error": {"message": "Rejected by the safety system.", "code": "moderation_blocked"}},
        "refused",
    ),
    "busy": (429, {"error": {"message": "Slow down."}}, "server_gone"),
    "broken": (503, "", "server_gone"),
}


@pytest.fixture(scope="module")
def garbage():
    """A server whose answer is chosen by the model's name, and how often each was asked for."""
    app, asked = FastAPI(), []

    @app.post("/{model}/v1/images/edits")
    async def answer(model: str) -> Response:
        asked.append(model)
        if model == "slow":
            await asyncio.sleep(0.5)
            return Response("{}")
        if model == "strict":
            body = {
                "message": "Unknown parameter: 'seed'.",
                "code": "unknown_parameter",
                "param": "seed",
            }
            return Response(json.dumps({"error": body}), 400, media_type="application/json")
        if model == "recovers" and asked.count(model) > 2:
            return Response(
                json.dumps(b64_answer(png_bytes(SOURCE))), media_type="application/json"
            )
        status, value, _ = ANSWERS.get(model, ANSWERS["broken"])
        text = value if isinstance(value, str) else json.dumps(value)
        kind = "text/html" if isinstance(value, str) else "application/json"
        return Response(text, status, {"retry-after-ms": "1"}, kind)

    with served(app) as url:
        yield url.removesuffix("/v1"), asked


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_without_an_image_is_a_named_failure(garbage, name):
    (failure,) = edited_by(remote(f"{garbage[0]}/{name}/v1", retries=1), (SOURCE, INSTRUCTION, 0))
    assert isinstance(failure, Failure)
    assert failure.kind == ANSWERS[name][2]
    assert garbage[1].count(name) == (2 if failure.kind == "server_gone" else 1)


def test_a_server_that_recovers_is_asked_again(garbage):
    (image,) = edited_by(remote(f"{garbage[0]}/recovers/v1"), (SOURCE, INSTRUCTION, 0))
    assert image.tobytes() == SOURCE.tobytes()
    assert garbage[1].count("recovers") == 3


def test_a_server_that_takes_too_long_is_a_failure(garbage):
    (failure,) = edited_by(
        remote(f"{garbage[0]}/slow/v1", timeout=0.1, retries=0), (SOURCE, INSTRUCTION, 0)
    )
    assert failure.kind == "timed_out"


def test_a_server_that_knows_no_seed_says_how_to_leave_it_out(garbage):
    with pytest.raises(InputError, match="set send_seed: false"):
        edited_by(remote(f"{garbage[0]}/strict/v1"), (SOURCE, INSTRUCTION, 0))
