"""What to make data from, which teachers to ask, and how: the pipeline's config."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data_pipeline.generators import Generator
from rrm.chat import Dialect
from rrm.config import Config
from rrm.images import MAX_PIXELS
from rrm.records import Category, Label
from rrm.rows.formats import Reading
from rrm.rows.text import Encoding

Variant = Literal["T", "V", "T+V", "holistic"]
Range = tuple[int, int]
PACKAGE = "package"
"""The pool of exemplars that comes with it, in `exemplars`."""
SANDBOX = "sandbox"
SPEED = (
    "out",
    "ledger",
    "concurrency",
    "timeout",
    "patience",
    "give_up_after",
    "key_variable",
    "teacher_url",
)
"""Keys that change nothing but the speed and the place."""
LIMITS = {
    "concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "key_variable",
    "max_tokens_field",
    "send_seed",
    "base_url",
}
"""The same of a teacher."""


class Teacher(Dialect):
    """A model behind an OpenAI-compatible server, and how it is asked."""

    model: str
    """Its name at the server."""
    base_url: str | None = Field(
        None, description="the server, ending in /v1; None: the config's 'teacher_url'"
    )
    key_variable: str | None = Field(
        None, description="environment variable with the key; None: the config's 'key_variable'"
    )
    concurrency: int | None = Field(
        None, ge=1, description="requests in flight; None: the config's 'concurrency'"
    )
    requests_per_minute: float | None = Field(None, gt=0)
    """Its limit on requests; None: none is known."""
    tokens_per_minute: float | None = Field(
        None, gt=0, description="prompt and completion together"
    )
    price_in: float = Field(0.0, ge=0, description="money per million prompt tokens")
    price_out: float = Field(0.0, ge=0, description="money per million completion tokens")
    max_tokens: int = Field(4096, ge=1, description="of one answer")
    temperatures: tuple[float, ...] = Field((0.7,), min_length=1)
    """Each is sampled at."""
    samples: int = Field(2, ge=1, description="answers per temperature and prompt variant")
    personas: tuple[str, ...] = Field(
        ("",), min_length=1, description="prompt variants: each is added to the system prompt"
    )
    version: str = Field(
        "",
        description="part of what an answer depends on; change it to have a renewed model asked again",
    )


class DataConfig(Config):
    """One data set."""

    synonyms: ClassVar = {"verifier": "gold_teacher"}
    renamed: ClassVar = {"editors": "generators"}

    out: str
    """Folder of the set."""
    tasks: str
    """Source images with instructions: an Edit-R1 folder, rows in any format, a datasets folder, or a hub id."""
    candidates: str | None = None
    """Ready-made edits of the tasks, in any format of rows."""
    generators: tuple[Generator, ...] = ()
    """Editors that make candidates."""
    pairs: str | None = None
    """Human preference pairs, in any format of rows."""
    benchmarks: tuple[str, ...] = Field(
        (), description="tasks, pairs or benchmark files that the set must not overlap with"
    )
    ledger: str | None = Field(
        None, description="SQLite file of every answer; None: <out>.ledger.sqlite"
    )
    encoding: Encoding | None = Field(
        None,
        description="of those text files of tasks, candidates, pairs and benchmarks that are not UTF-8, such as gb18030",
    )
    labels: dict[str | int | float | bool, Label | None] | None = Field(
        None,
        description="what labels of pairs mean that are not certain, such as {1: a, 2: b, 0: same, 9: null}",
    )
    limit: int | None = Field(None, ge=1, description="only so many tasks, and so many pairs")
    max_pixels: int = Field(
        MAX_PIXELS, ge=784, description="larger images are scaled down, by qwen-vl-utils' rules"
    )

    random_tasks: int | None = Field(
        None, ge=0, description="tasks drawn by seed; None without 'hard_tasks': all of them"
    )
    hard_tasks: int | None = Field(
        None, ge=0, description="tasks kept by the hard filter from among the others"
    )
    hard_filter: Teacher | None = None
    """Teacher that tells hard tasks from simple ones."""

    near_duplicate_bits: int = Field(
        8, ge=0, le=16, description="perceptual hashes of 64 bits that differ in no more are alike"
    )
    leave_out_instructions: bool = Field(
        True, description="also leave out tasks that share an instruction with a benchmark"
    )
    validation_share: float = Field(
        0.0, ge=0, lt=1, description="of the sources, each with its near-duplicates"
    )

    variant: Variant = "T+V"
    """T: think; V: verify; T+V: both; holistic: neither, and no principles."""
    exemplars: str | None = Field(PACKAGE, description="a JSONL file of them, or None")
    exemplars_per_query: int = Field(4, ge=0)
    """Example decompositions shown with each task."""
    language: Literal["auto", "en", "zh"] = Field(
        "auto", description="of the principles; auto: as the instruction's script"
    )
    principles: dict[Category, Range] = Field({"follow": (2, 5), "keep": (2, 5), "quality": (1, 4)})
    """Fewest and most principles of each category in a decomposition."""
    principles_total: Range = (8, 12)
    """Fewest and most principles in all."""
    asks: int = Field(
        3,
        ge=1,
        description="times that a decomposition or a verification is asked for until it is valid",
    )
    teacher_url: str = SANDBOX
    """Base URL of the teachers' server, ending in /v1; sandbox: the sandbox's own, started for the run."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the servers' key."""
    decomposer: Teacher
    """Teacher that writes principles."""
    thinkers: tuple[Teacher, ...] = Field(min_length=1)
    """Teachers that write traces."""
    gold_teacher: Teacher
    """Teacher whose verdicts count as true when traces are selected."""
    decompose_share: float = Field(0.1, ge=0, lt=1)
    """Share of the SFT rows that are examples of decomposing."""
    concurrency: int = Field(32, ge=1)
    """Requests in flight, per teacher."""
    timeout: float = Field(120.0, gt=0)
    """Seconds that one request may take."""
    patience: float = Field(
        600.0, gt=0, description="seconds that a call waits out rate limits and broken connections"
    )
    give_up_after: int = Field(
        8, ge=1, description="calls lost in a row until a teacher counts as gone for good"
    )
    seed: int = 0
    """Of draws, splits and sampling."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses keys that contradict each other."""
        if self.hard_tasks and self.hard_filter is None:
            raise ValueError("'hard_tasks' needs a 'hard_filter' teacher")
        for one, other in combinations(self.thinkers, 2):
            alike = (one.model, one.version, one.extra) == (other.model, other.version, other.extra)
            if (
                alike
                and set(one.temperatures) & set(other.temperatures)
                and set(one.personas) & set(other.personas)
            ):
                raise ValueError(
                    f"'{one.model}' would think the same twice; give it more 'samples', or another 'version'"
                )
        seen: dict[tuple[str, str], Teacher] = {}
        for teacher in self.pool:
            other = seen.setdefault((teacher.base_url or self.teacher_url, teacher.model), teacher)
            if limits_of(other) != limits_of(teacher):
                raise ValueError(
                    f"'{teacher.model}' is named twice with other limits, prices or keys; give it the same ones"
                )
        return self

    def what(self) -> dict[str, Any]:
        """Every key that the set depends on; how fast it is made, and where, is not among them, nor
        is what is not set."""
        roles: dict[str, Any] = dict.fromkeys(("decomposer", "gold_teacher", "hard_filter"), LIMITS)
        unset = [name for name in ("encoding", "labels") if getattr(self, name) is None]
        exclude = {
            **dict.fromkeys((*SPEED, *unset), True),
            **roles,
            "thinkers": {"__all__": LIMITS},
        }
        whole = self.model_dump(mode="json", exclude=exclude)
        for teacher in (
            whole["decomposer"],
            whole["gold_teacher"],
            whole["hard_filter"],
            *whole["thinkers"],
        ):
            if teacher and not teacher["extra"]:
                del teacher["extra"]
        return whole

    def digest(self) -> str:
        """A hash of what the set depends on."""
        return hashlib.sha256(json.dumps(self.what(), sort_keys=True).encode()).hexdigest()[:16]

    def with_sandbox_at(self, url: str) -> Self:
        """The config with this address in place of "sandbox"."""

        def there(address: str | None) -> str | None:
            return url if address == SANDBOX else address

        def moved(teacher: Teacher) -> Teacher:
            return teacher.model_copy(update={"base_url": there(teacher.base_url)})

        values = {
            "teacher_url": there(self.teacher_url),
            "generators": tuple(
                g.model_copy(update={"base_url": there(g.base_url)}) for g in self.generators
            ),
            "decomposer": moved(self.decomposer),
            "thinkers": tuple(map(moved, self.thinkers)),
            "gold_teacher": moved(self.gold_teacher),
            "hard_filter": moved(self.hard_filter) if self.hard_filter else None,
        }
        return self.model_copy(update=values)

    @property
    def reading(self) -> Reading:
        """How the files of rows are read."""
        return Reading(self.encoding)

    @property
    def decomposes(self) -> bool:
        """Whether principles are used at all."""
        return self.variant != "holistic"

    @property
    def thinks(self) -> bool:
        """Whether thoughts are part of traces: bare verdicts are what V is."""
        return self.variant != "V"

    @property
    def verifies(self) -> bool:
        """Whether traces are verified and selected."""
        return self.variant in ("V", "T+V")

    @property
    def filters(self) -> bool:
        """Whether tasks are chosen by the hard filter."""
        return bool(self.hard_tasks)

    @property
    def needed(self) -> list[Teacher]:
        """The teachers without whom nothing comes out."""
        return [
            *([self.hard_filter] if self.hard_filter and self.filters else []),
            *([self.decomposer] if self.decomposes else []),
            *([self.gold_teacher] if self.verifies else []),
        ]

    @property
    def pool(self) -> list[Teacher]:
        """Every teacher that this variant asks."""
        return [*self.needed, *self.thinkers]

    @property
    def exemplars_path(self) -> Path | None:
        """The file of exemplars, if there is one."""
        if self.exemplars == PACKAGE:
            return Path(__file__).with_name("exemplars.jsonl")
        return Path(self.exemplars) if self.exemplars else None

    @property
    def ledger_path(self) -> Path:
        """Where the answers are kept."""
        return (
            Path(self.ledger)
            if self.ledger
            else Path(self.out).with_name(Path(self.out).name + ".ledger.sqlite")
        )


def limits_of(teacher: Teacher) -> tuple[object, ...]:
    """What two teachers must share to be the same model on the same server."""
    limits = (teacher.concurrency, teacher.requests_per_minute, teacher.tokens_per_minute)
    return (
        *limits,
        teacher.max_tokens_field,
        teacher.send_seed,
        teacher.price_in,
        teacher.price_out,
        teacher.key_variable,
    )
