"""Damage to files, drawn from a seed: to bytes, and to the values of a JSON document."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from cdjax.errors import InputError

# Values that a field may be given by mistake or by malice.
VALUES = (
    *(None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e308, 10**30, 10**400, 2**63),
    *(float('nan'), float('inf'), -float('inf')),
    *('', 'x', '\ud800', '\x00', '9' * 50, '1e5', '../../etc/passwd', '..', 'é', '٣'),
    *([], {}, [[]], [1], {'a': 1}, [None], {'': None}, [{}] * 5),
)


def mutate_json(value: Any, rng: random.Random) -> bytes:
    """Returns the text of a JSON document with one value, one key or some bytes changed."""
    if rng.random() < 0.4:
        return mutate_bytes(json.dumps(value).encode(), rng)
    value = copy.deepcopy(value)
    *above, last = rng.choice(list(_paths(value))) or (None,)
    if last is None:
        return json.dumps(rng.choice(VALUES)).encode()
    parent = value
    for key in above:
        parent = parent[key]
    action = rng.choice(('remove', 'rename', 'copy', 'replace', 'replace'))
    if action == 'remove':
        del parent[last]
    elif action == 'rename' and isinstance(parent, dict):
        parent[rng.choice(('', 'x', f'{last}s'))] = parent.pop(last)
    elif action == 'copy' and isinstance(parent, dict):
        parent[rng.choice(list(parent))] = copy.deepcopy(parent[last])
    else:
        parent[last] = rng.choice(VALUES)
    return json.dumps(value).encode()


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Returns bytes with some flipped, removed, inserted, copied from elsewhere, or cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not changed:
            break
        at, action = rng.randrange(len(changed)), rng.randrange(5)
        if action == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            del changed[at : at + rng.choice((1, 2, 10, 100))]
        elif action == 2:
            changed[at:at] = rng.randbytes(rng.choice((1, 3, 20)))
        elif action == 3:
            source = rng.randrange(len(changed))
            changed[at : at + 8] = changed[source : source + 8]
        else:
            del changed[at:]
    return bytes(changed)


def refusal(read: Callable[[bytes], Any], content: bytes) -> str | None:
    """Reads damaged content; returns the line that refuses it, None where it is taken."""
    try:
        read(content)
        return None
    except InputError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f'{content[:2000]!r}') from error
    assert '\n' not in message, content
    return message


def _paths(value: Any, at: tuple = ()) -> Iterator[tuple]:
    yield at
    parts = value.items() if isinstance(value, dict) else ()
    parts = enumerate(value) if isinstance(value, list) else parts
    for key, part in parts:
        yield from _paths(part, (*at, key))
