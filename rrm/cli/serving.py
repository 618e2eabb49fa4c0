"""`rrm serve` and `rrm doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rrm.errors import InputError


def serve(
    model: Annotated[Path, typer.Option(help="checkpoint folder")],
    host: Annotated[
        str | None,
        typer.Option(help="address to listen on (default: 127.0.0.1, this machine alone)"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="port of the first replica, the others follow (default: 8000)"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="model name that clients ask for (default: rrm)")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="servers, each with GPUs of its own (default: 1)")
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(help="GPUs per replica (default: 1)")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="tokens of prompt and answer (default: the model's, at most 10240)"),
    ] = None,
    in_flight: Annotated[
        int | None, typer.Option(help="sequences that a replica works on at once (default: 64)")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="default: the checkpoint's; float32 on the CPU")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="share of a GPU's memory (default: 0.9)")
    ] = None,
    patience: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="to become healthy (default: 900)")
    ] = None,
    allow_domain: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="fetch images that requests name by URL from here"),
    ] = None,
    allow_folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="open image files that requests name in here"),
    ] = None,
    logs: Annotated[Path, typer.Option(help="folder of the servers' logs")] = Path("runs/serve"),
) -> None:
    """Serve an RRM over OpenAI's protocol, with vLLM, until it is stopped."""
    from rrm.reward.serve import Serving
    from rrm.reward.serve import serve as run  # imports torch

    given: dict[str, Any] = {
        "host": host, "port": port, "name": name, "replicas": replicas, "tensor_parallel": tensor_parallel,
        "max_length": max_length, "in_flight": in_flight, "dtype": dtype, "gpu_memory": gpu_memory, "patience": patience,
    }  # fmt: skip
    chosen = {key: value for key, value in given.items() if value is not None}
    run(
        Serving(
            model=model,
            **chosen,
            media_domains=tuple(allow_domain or ()),
            media_folder=allow_folder,
        ),
        logs,
    )


def doctor(
    config: Annotated[Path, typer.Option(help="an SFT or GCPO config")],
    gpus: Annotated[
        int | None,
        typer.Option(
            help="GPUs that will train, without the vLLM server's (default: this machine's)"
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(metavar="GIB", help="memory of each (default: this machine's)")
    ] = None,
    sample: Annotated[int, typer.Option(help="rows of the data that are read in full")] = 64,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="a checkpoint of the base's shape, where the base is still to be made",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Check a training's config, data and machine before it is paid for (exit code 1 where
    something failed)."""
    if (gpus is not None and gpus < 1) or (gpu_memory is not None and gpu_memory <= 0):
        raise InputError(
            "--gpus and --gpu-memory must be above 0; leave them out for this machine's own."
        )
    if sample < 1:
        raise InputError("--sample must be at least 1 row.")
    from rrm.doctor.run import doctor as examine  # imports the trainers

    if not examine(config, gpus, gpu_memory, sample, like, as_json):
        raise SystemExit(1)
