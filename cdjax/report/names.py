"""Where the words of the page are, and how arms and starts are called within a sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdjax.distillation.arms import ARMS
from cdjax.distillation.readings import READINGS
from cdjax.distillation.similarities import SIMILARITIES
from cdjax.studies.arms import STARTS

TEMPLATES = Path(__file__).parent / 'templates'


def start_name(start: str) -> str:
    """Returns what a start is from: `nothing`, or a student."""
    return STARTS[start].removeprefix('a student from ')


def arm_name(arm: str) -> str:
    """Returns the name of an arm within a sentence; its key, where nothing registered it."""
    return ARMS[arm].phrase if arm in ARMS else arm


def compared_name(alignment: Mapping[str, Any]) -> str:
    """Returns what an alignment maximises, `CKA of activations`; keys where nothing has them."""
    words = []
    for known, key in ((SIMILARITIES, alignment['similarity']), (READINGS, alignment['reading'])):
        words.append(known[key].title if key in known else key)
    return ' of '.join(words)
