"""Where the words of the page are, and how arms and starts are called within a sentence."""

from pathlib import Path

from cdjax.distillation.arms import ARMS
from cdjax.studies.arms import STARTS

TEMPLATES = Path(__file__).parent / 'templates'


def start_name(start: str) -> str:
    """Returns what a start is from: `nothing`, or a student."""
    return STARTS[start].removeprefix('a student from ')


def arm_name(arm: str) -> str:
    """Returns the name of an arm within a sentence; its key, where nothing registered it."""
    return ARMS[arm].phrase if arm in ARMS else arm
