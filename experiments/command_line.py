"""The words of a command: flags and flag files, and in one line what is wrong with a flag."""

import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cdjax.errors import InputError
from experiments import help_page
from experiments.flags.given import flag_of, on_command_line


def parse(words: Sequence[str], *, known_only: bool = False) -> list[str]:
    """Sets the flags, and returns the words that are none.

    Args:
        words: of the command, the program first.
        known_only: pass over flags that the launcher does not have.

    Raises:
        InputError, flags.Error: a flag that is not there, or a value that it does not take.
    """
    try:
        return flags.FLAGS(words, known_only=known_only)
    except UnicodeDecodeError as error:
        raise InputError(f'flagfile: {error}: name a text with a flag a line') from error
    except ValueError as error:  # absl's own, of --noNAME=VALUE
        word = str(error).split(' does not take')[0]
        switch = word.lstrip('-').partition('=')[0]
        name = switch.removeprefix('no')
        raise InputError(
            f'{word}: write --{switch} or --{name}=false, and --{name} to switch it on'
        ) from error


def flagfiles_first(argv: Sequence[str]) -> list[str]:
    """Returns the words with flag files in front: of two values of a flag the later one holds."""
    program, *rest = argv
    files, others = [], []
    while rest and rest[0] != '--':
        word = rest.pop(0)
        is_file = flag_of(word) == 'flagfile'
        (files if is_file else others).append(word)
        if is_file and '=' not in word:
            files += rest[:1]
            rest = rest[1:]
    return [program, *files, *others, *rest]


def flagfiles(argv: Sequence[str]) -> list[Path]:
    """Returns the flag files that a command names, as far as they are there."""
    named = [
        word.partition('=')[2] or following
        for word, following in zip(argv, [*argv[1:], ''], strict=True)
        if flag_of(word) == 'flagfile'
    ]
    return [path for path in (Path(name).expanduser() for name in named) if path.is_file()]


def told_by(recipe: Path, what: str) -> str | None:
    """Returns what the header of a recipe says of its command or its time, None if nothing."""
    told = re.search(rf'^# {what}: +(.*)$', recipe.read_text(), re.M)
    return None if told is None else told[1]


def expand_home() -> None:
    """Replaces a leading ~ in values, which shells leave alone behind --name=."""
    for flag in (flags.FLAGS[name] for name in flags.FLAGS):
        if flag.present and isinstance(flag.value, str):
            flag.value = os.path.expanduser(flag.value)
        elif flag.present and isinstance(flag.value, list):
            flag.value = [os.path.expanduser(value) for value in flag.value]


def in_our_words(error: flags.Error) -> str:
    """Returns what is wrong with a flag, and what to do."""
    see = f'see python -m experiments.{Path(sys.argv[0]).stem} --help'
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown(error, see)
    text = str(error)
    if missing := re.findall(r'Flag (--\w+) must have a value other than None', text):
        return f'{" and ".join(missing)} must be given: {see}'
    text = re.sub(r'invalid literal for int.*', 'write an integer', text)
    text = re.sub(r'could not convert string to float.*', 'write a number', text)
    text = re.sub(r"\('Non-boolean argument.*\)", 'write true or false, or no value', text)
    return re.sub(r'ERROR:: Unable to open flagfile: \[.*?\] (.*): (.*)', r'flagfile=\2: \1', text)


def unexpected(argument: str) -> str:
    """Returns what is wrong with an argument that is no flag."""
    name = argument.partition('=')[0]
    meant = f'did you mean --{argument}?' if name in flags.FLAGS else 'flags look like --name=value'
    return f'unexpected argument {argument!r}; {meant}'


def _unknown(error: flags.UnrecognizedFlagError, see: str) -> str:
    """Returns what is wrong with a flag that is not there: where it stands, what may be meant."""
    name = error.flagname
    close = _like(name, error.flagvalue.partition('=')[2])  # absl holds the whole word there
    remedy = f'did you mean --{" or --".join(close)}?' if close else see
    recipe = None if on_command_line(name) else _file_with(name)
    if recipe is None:
        return f'there is no flag --{name}: {remedy}'
    of = re.match(r'python -m experiments\.(\w+)', told_by(recipe, 'Command') or '')
    if 'recipe' in flags.FLAGS:
        remedy = 'a recipe of another launcher is given as --recipe=FILE'
    elif of is not None and of[1] != Path(sys.argv[0]).stem:
        remedy = f'that file is a recipe of experiments.{of[1]}'
    return f'there is no flag --{name}, which stands in {recipe}: {remedy}'


def _file_with(name: str) -> Path | None:
    """Returns the flag file of the command that holds a flag, None if none does."""
    holds = re.compile(rf'^\s*--?{re.escape(name)}(=|\s|$)', re.M)
    return next((path for path in flagfiles(sys.argv) if holds.search(path.read_text())), None)


def _like(name: str, value: str) -> list[str]:
    """Returns the flags that somebody may have meant: mistyped, or without how they begin."""
    names = [known for of_group in help_page.by_group().values() for known in of_group]
    alike = lambda cutoff: difflib.get_close_matches(name, names, n=3, cutoff=cutoff)
    longer = [known for known in names if known.endswith(f'_{name}')]
    # A number is meant for a flag that takes one, before one that takes any text.
    longer.sort(key=lambda known: not _takes(known, value))
    return [*alike(0.8), *longer][:3] or alike(0.6)


def _takes(name: str, value: str) -> bool:
    """Whether a flag takes a value, and not just any text."""
    parser = flags.FLAGS[name].parser
    try:
        return not isinstance(parser.parse(value), str | list)
    except (TypeError, ValueError):
        return False
