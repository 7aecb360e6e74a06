"""A run that starts again finds its compiled programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdjax.errors import InputError
from cdjax.run import buckets
from cdjax.run.compilation import enable_compilation_cache

# Twice: two starts, at the price of importing JAX once.
STARTS = """
import os
import sys
import jax
from cdjax.run.compilation import enable_compilation_cache

cache = sys.argv[1]
if os.fork():
    os.wait()
    print(*sorted(os.listdir(cache)))
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
enable_compilation_cache(cache)
assert jax.config.jax_persistent_cache_min_compile_time_secs == 1
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.jit(lambda x: x * 2 + 1)(jax.numpy.ones(3)).block_until_ready()
print(sum(event.endswith('cache_hits') for event in events), flush=True)
"""


def test_the_second_start_compiles_nothing(tmp_path):
    cache = tmp_path / 'made' / 'cache'
    done = subprocess.run(
        [sys.executable, '-c', STARTS, str(cache)],
        env=os.environ | {'PYTHONPATH': str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, programs, second = done.stdout.splitlines()
    assert int(first) == 0
    assert programs
    assert int(second) >= 1
    assert sorted(file.name for file in cache.iterdir()) == programs.split()


def test_a_cache_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match=r'--compilation_cache=.*/file/cache cannot be made'):
        enable_compilation_cache(tmp_path / 'file' / 'cache')
    monkeypatch.setattr(buckets.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install gcsfs'):
        enable_compilation_cache('gs://lab/cache')
