"""`rrm doctor`: every check, and the command."""

from __future__ import annotations

import http.server
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image
from transformers import Qwen2VLImageProcessor

from rrm.cli import invoke
from rrm.doctor import checks, inputs, machine, memory
from rrm.doctor.checks import Check
from rrm.doctor.inputs import Lengths
from rrm.doctor.machine import Gpu
from rrm.doctor.memory import GIB
from rrm.errors import InputError
from rrm.images import MAX_PIXELS, ImageStore
from rrm.verifier.checkpoint import load_processor
from tests.support import ROOT
from tests.support.plans import GCPO, PLAN, SMALL, gcpo, sft


def test_versions_are_held_against_ranges_and_pins():
    needed = [Requirement("torch>=2.8"), Requirement("trl>=1.10,<2")]
    pins = {"torch": "2.13.0", "trl": "1.16.0"}

    def statuses(**have: str | None) -> list[str]:
        return [check.status for check in machine.check_versions(needed, have, pins)]

    assert statuses(torch="2.13.0+cpu", trl="1.16.0") == ["ok"]
    assert statuses(torch="2.12.0", trl="1.16.0") == ["warning"]
    assert statuses(torch="2.13.0", trl="2.0.0") == ["fail"]
    assert statuses(torch=None, trl="1.9") == ["fail", "fail"]
    names = {r.name for r in machine.requirements(["train"])}
    assert {"torch", "trl", "deepspeed"} <= names
    assert "vllm" not in names
    assert "vllm" in {r.name for r in machine.requirements(["train", "serve"])}
    assert machine.tested_versions(ROOT / "constraints.txt")["pillow"]


def test_torch_goes_with_the_torchvision_of_its_day():
    assert machine.check_pairing("2.13.0+cu130", "0.28.0").status == "ok"
    assert machine.check_pairing("2.8.0", "0.23.0").status == "ok"
    assert machine.check_pairing("2.13.0", "0.27.1").status == "fail"


def test_gpus_are_those_that_are_planned_for():
    hopper, turing = Gpu("NVIDIA H100 80GB HBM3", 79.1, (9, 0)), Gpu("Tesla T4", 14.6, (7, 5))
    assert machine.check_gpus([hopper] * 8, None, True).status == "ok"
    assert machine.check_gpus([hopper] * 8, 16, True).status == "warning"
    assert machine.check_gpus([turing], None, True).status == "fail"
    assert machine.check_gpus([turing], None, False).status == "ok"
    assert machine.check_gpus([hopper, turing], None, False).status == "warning"
    assert machine.check_gpus([], 8, True).status == "warning"
    assert machine.check_gpus([], None, True).status == "fail"
    assert machine.check_gpus([], None, False).status == "ok"


def test_the_driver_serves_the_cuda_that_torch_is_built_for():
    assert machine.check_driver("12.4", 12040).status == "ok"
    assert machine.check_driver("12.8", 12040).status == "warning"
    assert machine.check_driver("13.0", 12080).status == "fail"
    assert machine.check_driver(None, 12080).status == "fail"


def test_a_batch_divides_or_is_refused():
    assert checks.check_batch(gcpo(), 6, 10_000).says.startswith(
        "192 traces an update, 32 for each of 6 processes, 8 × 4 at once"
    )
    assert checks.check_batch(gcpo(), 7, 10_000).status == "fail"
    assert checks.check_batch(gcpo(micro_batch=5), 6, 10_000).status == "fail"
    assert checks.check_batch(gcpo(), 6, 11).status == "fail"
    check = checks.check_batch(sft(steps=100), 8, 6400)  # 2 × 4 × 8 = 64 rows an update
    assert check.figures["passes"] == 1.0
    assert checks.check_batch(sft(), 8, 63).status == "fail"


def test_bfloat16_without_master_weights_is_refused():
    assert checks.check_bfloat16(sft(dtype="bfloat16")).status == "fail"
    assert (
        checks.check_bfloat16(sft(dtype="bfloat16", lora_rank=8)).status == "ok"
    )  # peft keeps adapters in float32
    assert (
        checks.check_bfloat16(sft(dtype="bfloat16", deepspeed="launch/zero2.json")).status == "ok"
    )


def test_a_deepspeed_config_is_read_as_deepspeed_reads_it(tmp_path, monkeypatch):
    assert machine.check_deepspeed(None).status == "ok"
    assert machine.check_deepspeed(str(ROOT / "launch/zero3.json")).status == "ok"
    assert (
        "there is no DeepSpeed config" in machine.check_deepspeed(str(tmp_path / "none.json")).says
    )
    for text, says in (
        ("{", "no JSON"),
        ("{}", "no JSON"),
        ('{"zero_optimization": {"stage": 7}}', "stage"),
    ):
        (tmp_path / "z.json").write_text(text)
        check = machine.check_deepspeed(str(tmp_path / "z.json"))
        assert (check.status, says in check.says) == ("fail", True)
    monkeypatch.setattr(machine.shutil, "which", lambda name, path=None: None)
    assert (
        "ninja and c++ not found" in machine.check_deepspeed(str(ROOT / "launch/zero2.json")).says
    )


def test_a_base_is_a_checkpoint_or_a_hub_id_that_is_somewhere(tiny_checkpoint, tmp_path):
    def status(base: str, where: str = "nowhere") -> str:
        return checks.check_base(base, lambda _: where).status

    assert status(str(tiny_checkpoint)) == "ok"
    assert status(str(tmp_path)) == status("runs/none/model") == status("just a name") == "fail"
    hub = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert [status(hub, where) for where in ("cached", "online", "nowhere")] == [
        "ok",
        "warning",
        "fail",
    ]


def test_data_that_cannot_be_trained_on_is_named(training_data, tmp_path):
    check, rows, drawn = inputs.check_rows(sft(data=training_data), 5)
    assert (check.status, rows, len(drawn)) == (
        "ok",
        pq.read_metadata(training_data / "sft.parquet").num_rows,
        5,
    )
    assert inputs.check_rows(gcpo(data=training_data), 100)[1] == 12
    assert inputs.check_images(drawn, ImageStore(training_data / "images")).status == "ok"
    assert inputs.check_images(drawn, ImageStore(tmp_path)).status == "fail"
    table = pq.read_table(training_data / "preferences.parquet")
    for changed, says in (
        (table.drop_columns(["edited_b"]), "no column edited_b"),
        (table.slice(0, 0), "is empty"),
        (
            table.set_column(table.column_names.index("label"), "label", pa.array(["c"] * 12)),
            "label",
        ),
        (
            table.set_column(table.column_names.index("label"), "label", pa.array(["same"] * 12)),
            "labelled 'same'",
        ),
    ):
        pq.write_table(changed, tmp_path / "preferences.parquet")
        check, _, drawn = inputs.check_rows(gcpo(data=tmp_path), 5)
        assert (check.status, says in check.says, drawn) == ("fail", True, [])
    assert inputs.check_rows(sft(data=tmp_path), 5)[0].says.startswith("There is no ")


def test_image_tokens_are_those_of_the_real_image_processor():
    """By the formula, for real pixel budgets, against Qwen2.5-VL's own image processor, whose grid
    is in patches of 14."""
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": MAX_PIXELS})
    rng = np.random.default_rng(0)
    for width, height in (
        (1008, 980),
        (1024, 1024),
        (1920, 1080),
        (640, 480),
        (333, 777),
        (30, 40),
    ):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        _, rows, columns = processor(images=[image], return_tensors="pt")["image_grid_thw"][
            0
        ].tolist()
        assert inputs.image_tokens([image], 56 * 56, MAX_PIXELS) == rows * columns // 4
    assert (
        inputs.image_tokens([Image.new("RGB", (1008, 980))] * 2, 56 * 56, MAX_PIXELS) == 2 * 36 * 35
    )


def test_prompts_with_two_images_are_those_of_transformers_and_a_difference_is_told(
    training_data, tiny_checkpoint
):
    store, ours = ImageStore(training_data / "images"), load_processor(str(tiny_checkpoint))
    _, _, rows = inputs.check_rows(gcpo(data=training_data), 4)
    assert inputs.check_parity(rows, "brief", store, ours, str(tiny_checkpoint)).status == "ok"
    lengths = inputs.measure(rows, "brief", store, ours)
    assert set(lengths.images) == {8}  # two images of 56 × 56
    messages, images = inputs.asked(rows[0], "brief", store)
    assert lengths.prompts[0] == len(inputs.reference_ids(ours, messages, images))
    ours.image_processor.size.shortest_edge = ours.image_processor.size.longest_edge = 112 * 112
    check = inputs.check_parity(rows, "brief", store, ours, str(tiny_checkpoint))
    assert check.status == "fail"
    assert "32 of its images; by transformers' own way" in check.says


def test_answers_that_max_tokens_would_cut_off_are_counted():
    lengths = Lengths((3000, 3100), (2520, 2520), None)
    answers = [100] * 90 + [2000] * 10
    check = inputs.check_lengths(gcpo(max_tokens=1536), lengths, answers, 128_000)
    assert (check.status, check.figures["cut_off"]) == ("warning", 0.1)
    assert "raise it to 2000" in check.says
    assert inputs.check_lengths(gcpo(max_tokens=2048), lengths, answers, 128_000).status == "ok"
    assert inputs.check_lengths(gcpo(max_tokens=2048), lengths, answers, 5_000).status == "fail"
    assert inputs.check_lengths(gcpo(), lengths, None, 128_000).status == "ok"
    assert inputs.check_lengths(sft(), lengths, answers, 5_000).status == "fail"


def test_disk_holds_the_checkpoints_the_model_and_the_rollouts():
    trained = memory.parameters(SMALL)
    assert (
        checks.checkpoint_bytes(SMALL, PLAN) == 16 * trained
    )  # weights twice, 12 of the optimiser
    needed = 16 * trained * 3 + 2 * trained
    assert checks.check_disk(sft(), SMALL, PLAN, needed).status == "ok"
    assert checks.check_disk(sft(), SMALL, PLAN, needed - 1).status == "fail"
    rollouts = 4 * 10 * 12 * 2 * 8 * 1024
    assert checks.check_disk(gcpo(), SMALL, PLAN, needed + rollouts - 1).status == "fail"
    assert checks.check_disk(gcpo(), SMALL, PLAN, needed + rollouts).status == "ok"


@pytest.fixture
def vllm():
    """A server that speaks as much of vLLM as the doctor asks: it serves `b/c`, and gives every
    image four tokens."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, value: object) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def do_GET(self) -> None:
            self.answer({"data": [{"id": "b/c"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            parts = body["messages"][0]["content"]
            assert all(
                part["image_url"]["url"].startswith("data:image/png;base64,") for part in parts
            )
            self.answer(
                {
                    "features": {
                        "mm_placeholders": {"image": [{"offset": 0, "length": 4} for _ in parts]}
                    }
                }
            )

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_is_asked_for_its_model_and_its_image_tokens(vllm):
    assert checks.check_server(None, "b/c").status == "ok"
    assert checks.check_server(vllm, "b/c").status == "ok"
    assert checks.check_server(vllm, "other/model").status == "fail"
    images = [Image.new("RGB", (56, 56))] * 2
    assert checks.check_server_tokens(vllm, images, [4, 4]).status == "ok"
    assert checks.check_server_tokens(vllm, images, [4, 9]).status == "fail"
    assert checks.check_server("http://127.0.0.1:9", "b/c").status == "warning"
    absent = checks.check_server_tokens("http://127.0.0.1:9", images, [4, 4])
    assert (absent.status, absent.says) == ("not checked", "no server answers.")


def call(*arguments: object) -> None:
    invoke(["doctor", *map(str, arguments)])


def test_the_command_says_all_of_it_and_its_exit_code_tells_a_failure(
    tmp_path, training_data, tiny_checkpoint, capsys
):
    path = tmp_path / "gcpo.yaml"
    values = {
        **GCPO,
        "data": str(training_data),
        "base": str(tiny_checkpoint),
        "out": str(tmp_path / "out"),
        "max_tokens": 100,
    }
    path.write_text(
        yaml.safe_dump({**values, "pairs_per_step": 2, "traces_per_image": 2, "steps": 6})
    )
    call("--config", path, "--sample", 4)
    said = capsys.readouterr().out
    assert "fail " not in said
    assert "prompts with two images have the tokens that transformers gives them" in said
    assert (
        "8 traces an update, 8 for each of 1 processes, 2 × 4 at once; 6 steps go 1.00 times through 12 pairs"
        in said
    )
    assert "memory per GPU, GiB" in said
    with pytest.raises(SystemExit) as caught:
        call("--config", path, "--gpus", 3, "--gpu-memory", 0.5, "--sample", 4, "--json")
    assert caught.value.code == 1
    out = json.loads(capsys.readouterr().out)
    status = {check["name"]: check["status"] for check in out["checks"]}
    assert not out["well"]
    assert (status["batch"], status["memory"], status["tokens"]) == ("fail", "fail", "ok")
    assert out["memory_bytes"]["total"] > 0.5 * GIB


def test_a_base_that_is_still_to_be_made_is_estimated_like_another(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = ("--config", "configs/qwen2_5_vl_7b/gcpo.yaml", "--gpus", 6, "--gpu-memory", 80)
    for more, status in (((), "not checked"), (("--like", "Qwen/Qwen2.5-VL-7B-Instruct"), "ok")):
        with pytest.raises(SystemExit):
            call(*arguments, *more, "--json")
        out = json.loads(capsys.readouterr().out)
        assert {check["name"]: check["status"] for check in out["checks"]}["memory"] == status


def test_what_libraries_print_meanwhile_is_not_among_the_result(capsys, monkeypatch):
    def chatty(*_):
        print("[WARNING] [real_accelerator.py] Setting accelerator to CPU.")
        return [Check("base", "ok", "here.")], None, None

    monkeypatch.setattr("rrm.doctor.run.examine", chatty)
    call("--config", "c.yaml", "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["checks"][0]["says"] == "here."
    assert "real_accelerator" in err


def test_wrong_options_are_refused():
    for wrong in (("--gpus", 0), ("--gpu-memory", -1), ("--sample", 0)):
        with pytest.raises(InputError):
            call("--config", "c.yaml", *wrong)
    with pytest.raises(InputError, match="There is no config at none"):
        call("--config", "none.yaml")
