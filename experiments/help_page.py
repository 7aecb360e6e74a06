"""What --help prints: what a launcher does, an example, and its flags by what they are about."""

import re
import sys
import textwrap

from absl import flags

from experiments.flags.groups import GROUPS

WIDTH, COLUMN = 100, 34
OWN, COMMON = 'Of this launcher', 'Of every launcher'
HELP_WORDS = ('--help', '-help', '-h', '-?')
_EXPECTED = {
    'int': 'INTEGER',
    'float': 'NUMBER',
    'string': 'TEXT',
    'string enum': 'ONE',
}
_COMMON = {
    '--flagfile=FILE': 'Flags from a file, one a line; those of the command line win.',
    '--helpfull': 'All flags as absl lists them, its own and those of its modules too.',
}


def page() -> str:
    """Returns the help of the launcher that runs."""
    launcher = sys.modules['__main__']
    lines = [(launcher.__doc__ or '').strip(), '']
    lines += textwrap.wrap(
        'What stands behind = is the default; a word in capitals is what is expected where there '
        'is none.',
        WIDTH,
    )
    for title, names in by_group().items():
        lines += ['', f'{title}:']
        for name in names:
            lines += _entry(*_described(flags.FLAGS[name]))
        if title == COMMON:
            for flag, what in _COMMON.items():
                lines += _entry(flag, what)
    return '\n'.join(lines)


def by_group() -> dict[str, list[str]]:
    """Returns the flags of the launcher that runs: title → names, its own first."""
    ours = {
        flag.name
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if module == sys.argv[0] or module.startswith('experiments.')
        for flag in defined
    }
    grouped = {name for names in GROUPS.values() for name in names}
    own = [name for name in flags.FLAGS if name in ours - grouped]
    common = GROUPS.get(COMMON, [])
    found = {OWN: own, **{k: v for k, v in GROUPS.items() if k != COMMON}, COMMON: common}
    return {title: names for title, names in found.items() if names}


def _described(flag: flags.Flag) -> tuple[str, str]:
    """Returns how a flag is written, and what it does."""
    # absl lists choices as <a|b>, which no line can be broken in.
    what = re.sub(r'^<[^>]*>', lambda choices: choices[0].replace('|', ', '), flag.help)
    if flag.boolean and flag.flag_type() == 'path':
        return f'--{flag.name}[=PATH]', what
    if flag.boolean:
        state = '' if flag.default is None else f' ({"on" if flag.default else "off"})'
        return f'--[no]{flag.name}', f'{what}{state}'
    default = flag.default
    if default is None:
        return f'--{flag.name}={_EXPECTED.get(flag.flag_type(), "A,B,...")}', what
    if isinstance(default, list):
        default = ','.join(default)
    return f'--{flag.name}={default}', what


def _entry(flag: str, what: str) -> list[str]:
    """Returns the lines of one flag: what it does stands beside it, or below where it is long."""
    indent = ' ' * COLUMN
    text = textwrap.wrap(what, WIDTH - COLUMN)
    head = f'  {flag}'
    if len(head) < COLUMN - 1:
        return [head.ljust(COLUMN) + text[0], *(indent + line for line in text[1:])]
    heads = textwrap.wrap(flag.replace(',', ', '), WIDTH - 4) if len(head) > WIDTH else [flag]
    heads = [('  ' if i == 0 else '    ') + part.replace(', ', ',') for i, part in enumerate(heads)]
    return [*heads, *(indent + line for line in text)]
