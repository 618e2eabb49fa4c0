"""The model card of a verifier checkpoint, in the hub's form."""

from __future__ import annotations

import json
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from pydantic import Field

from rrm.prompts import Style, is_brief, is_holistic
from rrm.records import Principle, Record
from rrm.verifier.messages import judge_messages

STAGES = {
    "sft": "supervised fine-tuning on selected traces of thought, verdicts and score (the cold start)",
    "gcpo": "GCPO, reinforcement learning on human preference pairs, after the cold start",
}
INSTRUCTION = "Make the red circle blue."
PRINCIPLES = (
    Principle(question="Is the red circle blue now?", category="follow"),
    Principle(question="Is everything else as it was?", category="keep"),
    Principle(question="Is the image free of artefacts?", category="quality"),
)


class Origin(Record):
    """Where a checkpoint comes from. Only `stage` is known of one that no training made."""

    stage: str
    config: dict[str, Any] = Field(default_factory=dict)
    base: str | None = None
    base_fingerprint: str | None = None
    """Of a local folder; a hub id names its own revision."""
    data_fingerprint: str | None = None
    rows: dict[str, int] = Field(default_factory=dict)
    seed: int | None = None
    processes: int | None = None
    training: dict[str, int | float] = Field(default_factory=dict)
    """Steps, seconds, and the values of the last logged step."""


TEMPLATE = """\
---
{{ card_data }}
---

# A reasoning reward model for image editing

It sees a source image, an edited image, the instruction{% if principles %} and yes/no questions (principles) that a good edit answers with yes{% endif %};
it thinks, {% if principles %}answers every question with 0 or 1, {% endif %}and ends in `<score>S</score>`, S from 0 (unusable) to 10.

Made with edit-rrm, after arXiv 2604.27505, by {{ made }}.

## How it is asked

Prompt style `{{ style }}`: it was trained with exactly this form, and knows no other. The source comes first.
{% if not brief %}The instruction is a JSON string (so is a requirement, on the next line as `Requirement: "…"`){% if principles %}; every question is one line{% endif %}.
{% endif %}
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # where this file lies
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
processor = AutoProcessor.from_pretrained(folder)

images = [Image.open(path).convert("RGB") for path in ("source.png", "edited.png")]
messages = {{ messages }}
text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
inputs = processor(text=[text], images=[images], return_tensors="pt").to(model.device)
answer = model.generate(**inputs, max_new_tokens={{ max_new_tokens }}, do_sample=False)
print(processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```

With edit-rrm installed, `rrm score` does this and reads the answer; where no score can be read it names the failure.

{% if origin.config %}## Training

| | |
| --- | --- |
| base | {{ base }} |
| data | {{ data }} |
| processes | {{ origin.processes }} |
| versions | {{ versions }} |

Hyperparameters:

| key | value |
| --- | --- |
{% for key, value in origin.config.items() %}| {{ key }} | {{ value }} |
{% endfor %}
At the end of training (of training batches, not of a benchmark):

| | |
| --- | --- |
{% for key, value in origin.training.items() %}| {{ key }} | {{ value }} |
{% endfor %}
{% endif %}## Limits

- How far it agrees with people is not said here: measure it with `editrewardbench` on pairs that it was not trained on.
- It can write an answer without a readable score; count such answers, and make up no score for them.
- A score says nothing about whether an image may be used: safety, rights and truth are not judged.
- A model that is optimised against it will find its blind spots; look at what the optimised model makes.

## Citation

The method: arXiv [2604.27505](https://arxiv.org/abs/2604.27505). Please cite it, and the base model.
"""


def as_code(messages: list[dict[str, Any]]) -> str:
    """The messages as Python, a part on a line."""
    lines = ["["]
    for message in messages:
        lines += [f'    {{"role": {json.dumps(message["role"])}, "content": [']
        lines += [f"        {json.dumps(part, ensure_ascii=False)}," for part in message["content"]]
        lines += ["    ]},"]
    return "\n".join([*lines, "]"])


def model_card(style: Style, origin: Origin, root: str | None, versions: dict[str, str]) -> str:
    """The card's text. `root` is the first base of the line of checkpoints that this one ends."""
    data = ModelCardData(
        library_name="transformers", pipeline_tag="image-text-to-text", base_model=root,
        tags=["reward-model", "image-editing", "edit-rrm", origin.stage, "arxiv:2604.27505"],
    )  # fmt: skip
    base = f"`{origin.base}`" + (
        f" (fingerprint {origin.base_fingerprint})" if origin.base_fingerprint else ""
    )
    rows = ", ".join(f"{count} {kind}" for kind, count in sorted(origin.rows.items()))
    card = ModelCard.from_template(
        data, template_str=TEMPLATE, style=style, origin=origin, made=STAGES.get(origin.stage, origin.stage), base=base,
        principles=not is_holistic(style), brief=is_brief(style), messages=as_code(judge_messages(style, INSTRUCTION, PRINCIPLES)),
        max_new_tokens=128 if style.startswith("brief") else 2048, data=f"{rows} (fingerprint {origin.data_fingerprint})",
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
    )  # fmt: skip
    return str(card).rstrip() + "\n"
