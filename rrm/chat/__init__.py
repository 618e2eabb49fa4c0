"""The one client of OpenAI-compatible chat servers: a request, and a checked completion or a fault.
It needs no torch."""

from rrm.chat.client import ChatClient, every_choice, patiently, reached, spare_loopback, waited
from rrm.chat.faults import Fault
from rrm.chat.options import Dialect
from rrm.chat.protocol import ChatRequest, Completion, Form, image_part
from rrm.chat.stop import StopRule

__all__ = [
    "ChatClient",
    "ChatRequest",
    "Completion",
    "Dialect",
    "Fault",
    "Form",
    "StopRule",
    "every_choice",
    "image_part",
    "patiently",
    "reached",
    "spare_loopback",
    "waited",
]
