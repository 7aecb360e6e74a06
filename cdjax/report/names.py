"""How arms and starts are called within a sentence and in figures, and their colours."""

from pathlib import Path

from cdjax.studies.arms import STARTS

TEMPLATES = Path(__file__).parent / 'templates'
SHORT_ARMS = {
    'kd': 'KD alone',
    'all': 'all neurons',
    'circuits': 'class circuits',
    'random': 'random masks',
    'wrong': 'other classes’ circuits',
}
ARM_COLOURS = {
    'kd': 'ink',
    'all': 'orange',
    'circuits': 'blue',
    'random': 'grey',
    'wrong': 'vermillion',
}


def start_name(start: str) -> str:
    """Returns what a start is from: `nothing`, or a student."""
    return STARTS[start].removeprefix('a student from ')


def arm_name(arm: str) -> str:
    """Returns the name of an arm within a sentence."""
    return SHORT_ARMS[arm]
