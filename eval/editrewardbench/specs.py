"""A judge from a line of text, as the command line names it.

rrm:FOLDER?mode=…&k=…      an RRM in this process
serve:FOLDER               the same, through vLLM, which is started and stopped
server:URL,URL?model=…     an RRM behind servers
vlm:URL?model=NAME         any VLM, one score per edit; with &principles=true as a teacher judges
vlm-pair:URL?model=NAME    any VLM, shown both edits in both orders
baseline:longer-file       one of `eval.editrewardbench.baselines`
sandbox:NAME               one of the sandbox's teachers, where `truth` is the sandbox's
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import Field

from eval.editrewardbench.baselines import BASELINES, DRAWN, open_baseline
from eval.editrewardbench.endpoint import EndpointJudge, VlmJudge
from eval.editrewardbench.judges import EditJudge, RewardJudge
from eval.editrewardbench.pairwise import PairJudge
from eval.editrewardbench.truth import Truth
from rrm.chat import Dialect
from rrm.errors import InputError

Endpoint = TypeVar("Endpoint", bound=EndpointJudge)
Kind = Literal["rrm", "serve", "server", "vlm", "vlm-pair", "baseline", "sandbox"]
KINDS: tuple[Kind, ...] = ("rrm", "serve", "server", "vlm", "vlm-pair", "baseline", "sandbox")
FORMS = (
    "rrm:FOLDER, serve:FOLDER, server:URL?model=NAME, vlm:URL?model=NAME, vlm-pair:URL?model=NAME, "
    f"or baseline:NAME with NAME one of {', '.join(BASELINES)}"
)


class VlmOptions(Dialect):
    """What may stand behind the question mark of a vlm: or vlm-pair: spec."""

    model: str = Field(min_length=1)
    """The model's name at the server."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Of sampling; 0 is greedy."""
    max_tokens: int = Field(default=2048, gt=0)
    """Tokens of an answer, at most."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds."""
    principles: bool = False
    """Whether it writes and answers principles, as a teacher does, instead of giving one score."""


def kind_of(spec: str) -> Kind:
    """What kind of judge a spec names. Raises InputError, naming the kinds, for any other."""
    head, colon, where = spec.partition(":")
    for kind in KINDS:
        if kind == head and colon and where:
            return kind
    raise InputError(f"'{spec}' names no reward; write {FORMS}.")


def is_pairwise(spec: str) -> bool:
    """Whether the judge compares two edits, and scores none."""
    return kind_of(spec) == "vlm-pair"


def options_of(spec: str) -> dict[str, str]:
    """The options behind the question mark. Raises InputError for one given twice."""
    pairs = parse_qsl(spec.partition("?")[2], keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        raise InputError(f"The reward '{spec}' names an option twice; leave one out.")
    return dict(pairs)


def vlm_of(spec: str) -> tuple[str, VlmOptions]:
    """The base URL and the options of a vlm: or vlm-pair: spec."""
    url = spec.partition(":")[2].partition("?")[0].rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise InputError(
            f"The reward '{spec}' names no server; write "
            f"{kind_of(spec)}:http://127.0.0.1:8000/v1?model=NAME."
        )
    return url, VlmOptions.checked(options_of(spec), f"The reward '{spec}'")


def baseline_of(spec: str) -> str:
    """The name of a baseline; InputError, naming those there are, for any other."""
    name = spec.partition(":")[2]
    if name not in BASELINES:
        raise InputError(f"There is no baseline '{name}'; there are {', '.join(BASELINES)}.")
    return name


def endpoint_of(cls: type[Endpoint], spec: str, seed: int | None) -> Endpoint:
    """A judge of this class at the server that the spec names."""
    url, options = vlm_of(spec)
    return cls(
        url,
        options.model,
        key_variable=options.key,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        timeout=options.timeout,
        seed=seed,
        dialect=options,
    )


def check_spec(spec: str, passes: int) -> None:
    """Raises InputError where the spec is wrong, or all its passes would be the same."""
    kind = kind_of(spec)
    drawn = True
    if kind == "baseline":
        drawn = baseline_of(spec) in DRAWN
    elif kind == "sandbox":
        drawn = False
    elif kind in ("vlm", "vlm-pair"):
        drawn = vlm_of(spec)[1].temperature > 0
    else:
        options = options_of(spec)
        folder = spec.partition(":")[2].partition("?")[0]
        if kind in ("rrm", "serve") and not Path(folder).is_dir():
            raise InputError(
                f"There is no checkpoint at {folder}; correct the reward '{spec}', or train it "
                "first."
            )
        drawn = options.get("mode", "reasoning") != "logits" and (
            number_or(options.get("temperature"), 0) > 0
            or ("temperature" not in options and number_or(options.get("k"), 1) > 1)
        )
    if passes > 1 and kind == "vlm-pair":
        raise InputError("A pairwise judge is asked once in each order; leave --passes out.")
    if passes > 1 and not drawn:
        raise InputError(
            f"{passes} passes of '{spec}' would be the same one: it draws nothing; set a "
            "temperature or one pass."
        )


def sampling_of(spec: str, seed: int) -> dict[str, Any]:
    """The sampling that the spec names: all options of a VLM, the given ones of an RRM.

    `seed` is the command's; one that an RRM's spec names is added to it.
    """
    kind = kind_of(spec)
    if kind in ("vlm", "vlm-pair"):
        options = vlm_of(spec)[1].record()
        if not options["principles"]:
            options.pop("principles")
        return {**options, "seed": seed}
    named = {} if kind in ("baseline", "sandbox") else options_of(spec)
    return {**named, "seed": seed + int(number_or(named.get("seed"), 0))}


def number_or(text: str | None, otherwise: float) -> float:
    """The number in an option; `otherwise` for anything else, which the model itself refuses."""
    try:
        return otherwise if text is None else float(text)
    except ValueError:
        return otherwise


@contextmanager
def open_judges(
    spec: str, passes: int, seed: int, truth: Truth | None = None
) -> Iterator[Sequence[EditJudge]]:
    """The pointwise judge that a spec names, once per pass, each drawing anew."""
    check_spec(spec, passes)
    kind = kind_of(spec)
    with ExitStack() as stack:
        if kind == "baseline":
            yield [open_baseline(baseline_of(spec), seed + n) for n in range(passes)]
        elif kind == "sandbox":
            if truth is None:
                raise InputError(f"'{spec}' is of the sandbox; set 'truth: sandbox'.")
            yield [stack.enter_context(truth.open_judge(spec.partition(":")[2]))]
        elif kind == "vlm":
            drawn = vlm_of(spec)[1].temperature > 0
            cls = EndpointJudge if vlm_of(spec)[1].principles else VlmJudge
            judges = [endpoint_of(cls, spec, seed + n if drawn else None) for n in range(passes)]
            yield [stack.enter_context(judge) for judge in judges]
        elif kind == "vlm-pair":
            raise InputError(
                f"'{spec}' compares two edits and scores none; a pointwise judge is {FORMS}."
            )
        else:
            from rrm.reward import open_reward  # imports torch: not for a baseline

            model = stack.enter_context(open_reward(spec))
            first = (
                seed if model.sampling.temperature > 0 else 0
            )  # a greedy judge is the same one whatever the seed
            yield [RewardJudge(model, first + n) for n in range(passes)]


@contextmanager
def open_pair_judge(spec: str) -> Iterator[PairJudge]:
    """The pairwise judge that a spec names."""
    check_spec(spec, 1)
    with endpoint_of(PairJudge, spec, None) as judge:
        yield judge
