"""A file of settings, one a line, in the words of the flags of a discovery."""

import shlex

from absl import flags
from absl.testing import flagsaver
from etils import epath

from cdjax.errors import InputError
from cdjax.training.discovery import DiscoveryConfig
from experiments.flags import discovery

FLAGS = flags.FLAGS


def read_grid(path: str) -> list[tuple[str, DiscoveryConfig]]:
    """Returns the settings of a file by their line: the command's flags, and those of the line.

    Args:
        path: the file; empty lines and lines that start with # are passed over.

    Raises:
        InputError: no such file, a word that is no flag of a discovery, or a value out of range.
    """
    try:
        lines = epath.Path(path).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f'grid={path} cannot be read: {error}') from error
    settings = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith('#'):
            saved = flagsaver.save_flag_values(FLAGS)
            try:
                _set(shlex.split(line))
                settings.append((line.strip(), discovery.discovery_from_flags()))
            except (InputError, flags.Error, ValueError) as error:
                raise InputError(f'grid={path}, line {number}: {error}') from error
            finally:
                flagsaver.restore_flag_values(saved, FLAGS)
    return settings


def _set(words: list[str]) -> None:
    known = {flag.name for flag in FLAGS.flags_by_module_dict()[discovery.__name__]}
    for word in words:
        name, equals, value = word.removeprefix('--').partition('=')
        if not word.startswith('--') or not equals:
            raise InputError(f'{word!r}: write --FLAG=VALUE, a flag of experiments.discover')
        if name not in known:
            raise InputError(
                f'{word!r} may not stand in a grid, whose settings differ in flags of the search '
                'for circuits: leave it out, or give it to the command'
            )
        FLAGS[name].parse(value)
