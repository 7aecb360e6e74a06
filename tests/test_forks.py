"""Programs that share a process: what one does to it, the next does not see."""

import signal

from forks import run_in_turn

# Each tells whether a flag was there already, which it then defines.
DEFINES = """
from absl import flags
import jax, sys
assert 'mine' not in flags.FLAGS, 'left behind'
assert jax.config.jax_enable_x64 is False, 'left behind'
flags.DEFINE_integer('mine', 1, 'of this program')
jax.config.update('jax_enable_x64', True)
print('ran')
sys.exit(3)
"""
DIES = 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'


def test_a_program_sees_nothing_of_those_before_it_and_dies_alone(tmp_path):
    programs = []
    for name, text in {'a': DEFINES, 'b': DEFINES, 'dead': DIES, 'c': DEFINES}.items():
        (tmp_path / f'{name}.py').write_text(text)
        out = tmp_path / f'{name}.out'
        program = f'{tmp_path}/{name}.py'
        programs.append({'program': program, 'arguments': [], 'out': out, 'err': out})
    (tmp_path / 'ended').mkdir()
    assert run_in_turn(programs, tmp_path / 'ended') == [3, 3, -signal.SIGKILL, 3]
    assert [(tmp_path / f'{name}.out').read_text() for name in 'abc'] == ['ran\n'] * 3
