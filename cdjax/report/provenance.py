"""What reproduces a run, as its report tells it."""

import time
from collections.abc import Mapping
from typing import Any

from cdjax.wording import count


def describe(
    config: Mapping[str, Any], provenance: Mapping[str, Any] | None, family: str | None = None
) -> list[tuple[str, str]]:
    """Returns (name, text) of what reproduces a run: of its first start, and how many there were.

    Args:
        config: its config.json.
        provenance: its provenance.json, None or empty where there is none.
        family: of the models; of a table of arms none is told.
    """
    inputs, starts = config['inputs'], (provenance or {}).get('starts', [])
    told = []
    if starts:
        first = starts[0]
        at = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(first['time']))
        again = f', and started {count(len(starts), "time")} in all' if len(starts) > 1 else ''
        versions = ', '.join(f'{k} {v}' for k, v in first['packages'].items() if v is not None)
        machine = f'{count(first["devices"], "device")} ({first["device_kind"]}), '
        machine += f'{count(first["cores"], "core")} of {first["processor"]}, {first["system"]}'
        told += [
            ('Command', first['command']),
            ('Started', at + again),
            ('Commit', first['commit'] or 'not from a checkout'),
            ('Versions', f'Python {first["python"]}, {versions}'),
            ('Machine', machine),
        ]
    if family is not None:
        told.append(('Model family', family))
    hashes = {
        'Problems': 'data',
        'Tokenizer': 'tokenizer',
        'Teacher’s weights': 'teacher_weights',
        'Student’s weights': 'student_weights',
    }
    return told + [
        (f'Hash: {name.lower()}', inputs[key]) for name, key in hashes.items() if inputs.get(key)
    ]
