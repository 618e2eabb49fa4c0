"""Editors that make candidate edits: a diffusers pipeline in this process, or a server with
OpenAI's images API."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import inspect
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal, Protocol, Self

from PIL.Image import Image, Resampling
from pydantic import Field, model_validator

from rrm.chat import ChatClient, Fault, Form, patiently
from rrm.config import Config
from rrm.errors import InputError
from rrm.images import png_bytes, read_image
from rrm.records import Failure
from rrm.runtime.secrets import know_fields

DIFFUSERS_KEYS = frozenset(
    {
        "revision",
        "sampling_steps",
        "guidance",
        "true_cfg",
        "height",
        "width",
        "dtype",
        "device",
        "offload",
    }
)
OPENAI_KEYS = frozenset(
    {"base_url", "key_variable", "size", "extra", "send_seed", "timeout", "retries"}
)
RESERVED = frozenset({"model", "image", "prompt", "n", "size", "seed", "stream"})
OPENAI = "https://api.openai.com/v1"
LONGEST_ANSWER = 2**27
"""Bytes of an answer with an image."""
WITHOUT_EFFECT = {
    "name",
    "base_url",
    "key_variable",
    "seeds",
    "device",
    "offload",
    "timeout",
    "retries",
}
"""What an edit does not depend on."""
SAME_SHAPE = 0.05
"""Aspect ratios that differ by no more than this share count as the same."""


class Generator(Config):
    """An editor and how it is asked."""

    renamed: ClassVar = {"steps": "sampling_steps"}

    name: str = Field(min_length=1, description="what its candidates are called")
    kind: Literal["diffusers", "openai"]
    """diffusers: a pipeline in this process; openai: a server with the images API"""
    model: str = Field(
        description="diffusers: a local folder or a hub id; openai: the model's name at the server"
    )
    seeds: tuple[int, ...] = Field((0, 1), min_length=1, description="one candidate per seed")

    revision: str | None = Field(None, description="diffusers: commit, branch or tag at the hub")
    sampling_steps: int | None = Field(
        None, ge=1, description="diffusers: denoising steps; None: the pipeline's own number"
    )
    guidance: float | None = Field(
        None, description="diffusers: 'guidance_scale' (FLUX.1-Kontext); None: the pipeline's own"
    )
    true_cfg: float | None = Field(
        None, description="diffusers: 'true_cfg_scale' (Qwen-Image-Edit: 4.0); None: none is done"
    )
    height: int | None = Field(
        None,
        ge=1,
        description="diffusers: pixels that it works at, with 'width'; None: after the source",
    )
    width: int | None = Field(
        None,
        ge=1,
        description="diffusers: pixels that it works at, with 'height'; None: after the source",
    )
    dtype: Literal["bfloat16", "float32", "float16"] = Field(
        "bfloat16", description="diffusers: of the weights"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="diffusers: auto is cuda where there is one"
    )
    offload: bool = Field(
        False, description="diffusers: keep on the GPU only the model that is at work; needs cuda"
    )

    base_url: str | None = Field(
        None, description="openai: the server, ending in /v1; None: OpenAI itself"
    )
    key_variable: str = Field(
        "OPENAI_API_KEY", description="openai: environment variable with the key"
    )
    size: str | None = Field(
        None, description="openai: such as 1024x1024 or auto; None: the server's own"
    )
    extra: dict[str, str | int | float | bool] = Field(
        default={}, description="openai: further fields of the request, such as 'quality: high'"
    )
    send_seed: bool = Field(
        True,
        description="openai: send the seed; OpenAI itself refuses it, other servers repeat an edit by it",
    )
    timeout: float = Field(300.0, gt=0, description="openai: seconds that one try may take")
    retries: int = Field(
        5, ge=0, description="openai: further tries after a lost connection, a timeout, 429 or 5xx"
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses keys that would be ignored."""
        misplaced = self.model_dump(exclude_defaults=True).keys() & (
            OPENAI_KEYS if self.kind == "diffusers" else DIFFUSERS_KEYS
        )
        if misplaced:
            raise ValueError(
                f"editor '{self.name}' is of kind {self.kind}, which has no '{min(misplaced)}'; remove it"
            )
        if (self.height is None) != (self.width is None):
            raise ValueError(
                f"editor '{self.name}' has one of 'height' and 'width'; give both or neither"
            )
        if taken := RESERVED & self.extra.keys():
            raise ValueError(
                f"'extra' of editor '{self.name}' holds '{min(taken)}', which has a place of its own; remove it"
            )
        return self

    def key(self, source_digest: str, instruction: str, seed: int) -> str:
        """A hash of all that this edit depends on; the same model elsewhere gives the same edit."""
        parts = [
            self.model_dump(mode="json", exclude=WITHOUT_EFFECT),
            source_digest,
            instruction,
            seed,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class GeneratorClient(Protocol):
    """An editor that is ready for work."""

    async def edit(self, source: Image, instruction: str, seed: int) -> Image | Failure:
        """The edited RGB image, or why there is none."""

    async def close(self) -> None:
        """Gives back connections and memory."""


def open_generator(config: Generator) -> GeneratorClient:
    """The editor, ready for work. Raises InputError where it cannot be loaded or has no key."""
    return DiffusersEditor(config) if config.kind == "diffusers" else OpenAIEditor(config)


class DiffusersEditor:
    """A diffusers pipeline that takes an image and a prompt; it makes one edit at a time."""

    def __init__(self, config: Generator):
        self.config = config
        self.pipeline = load_pipeline(config)
        self.takes = call_of(type(self.pipeline))
        self.thread = ThreadPoolExecutor(1, "editor")

    async def edit(self, source: Image, instruction: str, seed: int) -> Image | Failure:
        """The edited RGB image, of the source's size where it is of the source's shape; Failure
        where the pipeline withholds it."""
        return await asyncio.get_running_loop().run_in_executor(
            self.thread, self.edit_now, source, instruction, seed
        )

    def edit_now(self, source: Image, instruction: str, seed: int) -> Image | Failure:
        """As `edit`, in the calling thread."""
        import torch

        generator = torch.Generator("cpu").manual_seed(seed)
        output = self.pipeline(
            prompt=instruction, generator=generator, **self.sampling(), **self.framing(source)
        )
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            return Failure(
                kind="refused", detail="the pipeline's safety checker withholds the edit"
            )
        image = output.images[0] if output.images else None
        if image is None:
            return Failure(kind="empty", detail="the pipeline returned no image")
        return fitted(image.convert("RGB"), source.size, stretched=self.takes_any_size)

    @property
    def takes_any_size(self) -> bool:
        """Whether the pipeline works at whatever size it is told, as Kontext does; others scale the
        source as suits them."""
        return {"_auto_resize", "max_area"} <= self.takes.keys()

    def sampling(self) -> dict[str, Any]:
        """The pipeline's arguments about how to sample."""
        config = self.config
        given: dict[str, Any] = {
            "num_inference_steps": config.sampling_steps,
            "guidance_scale": config.guidance,
        }
        if "true_cfg_scale" in self.takes:
            given["true_cfg_scale"] = config.true_cfg or 1.0
            # without a negative prompt, however blank, the pipelines leave guidance out
            given["negative_prompt"] = " " if given["true_cfg_scale"] > 1 else None
        return {name: value for name, value in given.items() if value is not None}

    def framing(self, source: Image) -> dict[str, Any]:
        """The pipeline's arguments about the image and its size."""
        fixed = (self.config.width, self.config.height)
        if not self.takes_any_size:
            return {
                "image": source,
                **{n: v for n, v in zip(("width", "height"), fixed, strict=True) if v},
            }
        # left alone, Kontext makes every edit square and of a megapixel, and stretches the source
        # to one of its own shapes
        multiple = self.pipeline.image_processor.config.vae_scale_factor
        wanted = (fixed[0] or source.width, fixed[1] or source.height)
        width, height = working_size(wanted, multiple, self.takes["max_area"].default)
        image = source.resize((width, height), Resampling.LANCZOS)
        return {
            "image": image,
            "height": height,
            "width": width,
            "max_area": width * height,
            "_auto_resize": False,
        }

    async def close(self) -> None:
        """Frees the pipeline's memory once the edit at work is done."""
        import torch

        await asyncio.to_thread(self.thread.shutdown, cancel_futures=True)
        del self.pipeline
        gc.collect()
        torch.cuda.empty_cache()


def load_pipeline(config: Generator) -> Any:
    """The pipeline on its device. Raises InputError where there is none that edits images as the
    config wants it."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            f"The editor '{config.name}' needs diffusers; run pip install -e '.[edit]'."
        ) from error
    import torch

    device = (
        config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    if (device == "cuda" or config.offload) and not torch.cuda.is_available():
        raise InputError(
            f"The editor '{config.name}' wants a GPU and there is none; leave out its 'device' and 'offload'."
        )
    try:
        name = str(
            diffusers.DiffusionPipeline.load_config(config.model, revision=config.revision).get(
                "_class_name"
            )
        )
        check_call(config, name, call_of(getattr(diffusers, name, None)))
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            config.model, revision=config.revision, torch_dtype=getattr(torch, config.dtype)
        )
    except (OSError, ValueError, ImportError) as error:
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"The editor '{config.name}' cannot be loaded from '{config.model}' ({why}); "
            "give a pipeline's folder, or a hub id that is downloaded already or can be."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if config.offload:
        pipeline.enable_model_cpu_offload()
        return pipeline
    return pipeline.to(device)


def call_of(kind: type | None) -> dict[str, inspect.Parameter]:
    """The parameters that a pipeline of this class is called with."""
    return {} if kind is None else dict(inspect.signature(kind.__call__).parameters)


def check_call(config: Generator, name: str, takes: dict[str, inspect.Parameter]) -> None:
    """Raises InputError unless a pipeline with these parameters edits images, and knows every
    setting."""
    if not {"image", "prompt"} <= takes.keys():
        raise InputError(
            f"The editor '{config.name}' is a {name}, which takes no image and prompt; "
            "give a pipeline that edits, such as FluxKontextPipeline or QwenImageEditPipeline."
        )
    settings = {
        "sampling_steps": "num_inference_steps",
        "guidance": "guidance_scale",
        "true_cfg": "true_cfg_scale",
        "height": "height",
    }
    for key, parameter in settings.items():
        if getattr(config, key) is not None and parameter not in takes:
            raise InputError(
                f"The editor '{config.name}' is a {name}, which has no {parameter}; leave out its '{key}'."
            )


def working_size(size: tuple[int, int], multiple: int, most: int) -> tuple[int, int]:
    """Width and height in multiples of `multiple`, near the given ones, which are first scaled to
    `most` pixels if they are more."""
    scale = min(1.0, math.sqrt(most / (size[0] * size[1])))
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in size)
    return width, height


def fitted(image: Image, size: tuple[int, int], stretched: bool = False) -> Image:
    """The image at `size`, if both are of the same shape or the image is known to be `stretched`;
    else as it is."""
    ratio = image.width * size[1] / (image.height * size[0])
    alike = stretched or abs(math.log(ratio)) <= SAME_SHAPE
    return image.resize(size, Resampling.LANCZOS) if alike and image.size != size else image


class OpenAIEditor:
    """A model behind OpenAI's images API, at OpenAI or any server that speaks it."""

    def __init__(self, config: Generator):
        self.config = config
        know_fields(config.extra)
        if not os.environ.get(config.key_variable) and config.base_url is None:
            raise InputError(
                f"The editor '{config.name}' needs a key; put it into the variable {config.key_variable}."
            )
        self.client = ChatClient(
            config.base_url or OPENAI, key_variable=config.key_variable, timeout=config.timeout
        )

    async def edit(self, source: Image, instruction: str, seed: int) -> Image | Failure:
        """The edited RGB image, of the source's size where it is of the source's shape; or why
        there is none.

        Raises InputError, in the server's own words, where it would refuse every other request of
        ours as well.
        """
        config = self.config
        fields: dict[str, Any] = {
            "model": config.model,
            "prompt": instruction,
            "n": 1,
            **config.extra,
        }
        fields |= {"size": config.size} if config.size else {}
        fields |= {"seed": seed} if config.send_seed else {}
        form = Form(
            {
                name: str(value).lower() if isinstance(value, bool) else str(value)
                for name, value in fields.items()
            },
            {"image": ("source.png", png_bytes(source), "image/png")},
        )
        got = await patiently(
            lambda: self.client.answer("/images/edits", form, LONGEST_ANSWER), config.retries
        )
        if isinstance(got, Fault):
            if got.scope == "everything":
                raise InputError(
                    f"The server of the editor '{config.name}' refuses whatever it is asked ({got.told.detail})."
                )
            return got.failure
        edited = read_answer(got)
        return edited if isinstance(edited, Failure) else fitted(edited, source.size)

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()


def read_answer(value: Mapping[str, Any]) -> Image | Failure:
    """The image in an answer of OpenAI's images API, or why there is none; an address is not
    followed."""
    match value.get("data"):
        case [{"b64_json": str(encoded)}, *_] if encoded:
            try:
                return read_image(base64.b64decode(encoded, validate=True), "the edit")
            except (ValueError, InputError) as error:
                return Failure(kind="image_unreadable", detail=str(error)[:200])
        case [{"url": str(address)}, *_] if address:
            return Failure(kind="empty", detail="the answer holds an address and no image")
    return Failure(
        kind="unparseable", detail="the answer is not of the form {data: [{b64_json: …}]}"
    )
