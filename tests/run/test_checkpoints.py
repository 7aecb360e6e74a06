"""Checkpoints: exact round trips, what is kept, and every kind of damage."""

import dataclasses
import functools
import json
import logging
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cdjax.errors import InputError
from cdjax.parallel.mesh import make_mesh, replicate
from cdjax.run.checkpoints import Checkpoints
from cdjax.run.checksums import checksums, tree_names


class Layer(nnx.Module):
    def __init__(self, weight):
        self.weight = nnx.Param(weight)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict
    moments: tuple
    key: jax.Array


@functools.cache
def make_state(step, mesh=None):
    """Returns a state whose every value depends on `step`."""
    mesh = mesh or make_mesh(4, 2)
    rng = np.random.default_rng(step)
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    bias = rng.normal(size=5).astype(jnp.bfloat16)
    split = NamedSharding(mesh, P('fsdp', 'tensor'))

    def params(factor):
        layer = Layer(jax.device_put(factor * weight, split))
        return {'layer': layer, 'bias': replicate(bias * factor, mesh)}

    step, key = replicate((jnp.int32(step), jax.random.key(step)), mesh)
    return State(step, params(1), (params(2),), key)


def bits(state):
    return [
        np.asarray(jax.random.key_data(x) if x.dtype == jax.random.key(0).dtype else x).tobytes()
        for x in jax.tree.leaves(state)
    ]


def save_all(folder, steps, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {'step': step})
        checkpoints.wait()
        return checkpoints.latest_step()


@pytest.fixture(scope='module')
def saved_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    save_all(folder, [1, 2])
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """A folder with checkpoints of steps 1 and 2, which a test may damage."""
    return shutil.copytree(saved_once, tmp_path, dirs_exist_ok=True)


def steps_in(folder):
    return sorted(int(p.name) for p in Path(folder).iterdir() if p.name.isdigit())


def largest_file(folder):
    files = [p for p in Path(folder).rglob('*') if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def flip_bit(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_names_have_no_value_and_no_duplicates():
    assert tree_names(make_state(1)) == [
        'step',
        'params.bias',
        'params.layer.weight',
        'moments.0.bias',
        'moments.0.layer.weight',
        'key',
    ]


def test_round_trip_is_exact_on_the_same_and_on_another_mesh(tmp_path):
    save_all(tmp_path, [3])
    with Checkpoints(tmp_path) as checkpoints:
        for mesh in (make_mesh(4, 2), make_mesh(1, 8), make_mesh(devices=jax.devices()[:1])):
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
                make_state(0, mesh),
            )
            state, progress = checkpoints.restore(abstract)
            assert progress == {'step': 3}
            assert bits(state) == bits(make_state(3))
            assert state.params['layer'].weight.sharding.mesh == mesh
            assert float(jax.random.uniform(state.key)) == float(
                jax.random.uniform(make_state(3).key)
            )


def test_saved_values_are_those_of_the_moment_although_the_state_is_donated(tmp_path):
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = {'w': replicate(np.zeros((512, 512), np.float32), make_mesh())}
    progress = {'history': [1]}
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 6):
            state = bump(state)
            checkpoints.save(step, state, progress)
            progress['history'].append('changed after the save')
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in (5, 4, 3, 2, 1):
            restored, saved = checkpoints.restore(state)
            np.testing.assert_array_equal(restored['w'], step)
            assert len(saved['history']) == step
            shutil.rmtree(tmp_path / str(step))
            checkpoints = Checkpoints(tmp_path, keep=9)


def test_progress_is_copied_before_the_background_write(tmp_path, monkeypatch):
    """The caller's list grows while Orbax has not yet turned it into a file."""
    progress = {'history': [1]}
    given = []
    save = ocp.CheckpointManager.save

    def slow_save(self, step, **arguments):
        progress['history'].append('changed after the save')
        given.append(arguments['args'].progress.item['body']['progress'])
        return save(self, step, **arguments)

    monkeypatch.setattr(ocp.CheckpointManager, 'save', slow_save)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), progress)
        checkpoints.wait()
        assert given == [{'history': [1]}]
        assert checkpoints.restore(make_state(0))[1] == {'history': [1]}


def test_an_empty_folder_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / 'new') as checkpoints:
        assert checkpoints.latest_step() is None
        assert checkpoints.restore(make_state(0)) is None
    with Checkpoints(tmp_path / 'absent', read_only=True) as checkpoints:
        assert checkpoints.restore(make_state(0)) is None
    assert not (tmp_path / 'absent').exists()


def test_saves_at_multiples_and_when_forced_and_keeps_the_newest(tmp_path):
    with Checkpoints(tmp_path, every=2, keep=2) as checkpoints:
        state = make_state(0)
        saved = [s for s in range(1, 8) if checkpoints.save(s, state, {}, force=s == 7)]
        assert saved == [2, 4, 6, 7]
        assert not checkpoints.save(7, state, {}, force=True), 'a step is saved once'
    assert steps_in(tmp_path) == [6, 7]


@pytest.mark.parametrize(('mode', 'best'), [('max', 2), ('min', 3)])
def test_the_best_is_kept_beside_the_newest(tmp_path, mode, best):
    scores = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.5, 5: 0.4, 6: None, 7: None}
    with Checkpoints(tmp_path, keep=2, best=('score', mode)) as checkpoints:
        for step, score in scores.items():
            metrics = None if score is None else {'score': score}
            checkpoints.save(step, make_state(step), {}, metrics=metrics)
        checkpoints.wait()
        assert checkpoints.best_step() == best
        params = checkpoints.restore_parameters(make_state(0).params, step=best)
    assert steps_in(tmp_path) == [best, 6, 7]
    assert bits(params) == bits(make_state(best).params)


def test_parameters_alone(saved):
    with Checkpoints(saved, read_only=True) as checkpoints:
        params = checkpoints.restore_parameters(make_state(0).params)
        assert bits(params) == bits(make_state(2).params)
        moments = checkpoints.restore_parameters(make_state(0).params, prefix='moments.0')
        assert bits(moments) == bits(make_state(2).moments[0])
        with pytest.raises(InputError, match=r'model\.bias is absent there'):
            checkpoints.restore_parameters(make_state(0).params, prefix='model')


def other_recipes():
    state = make_state(0)
    renamed = {'other': state.params['layer'], 'bias': state.params['bias']}
    wider = {**state.params, 'bias': jnp.zeros(6, jnp.bfloat16)}
    finer = {**state.params, 'bias': jnp.zeros(5, jnp.float32)}
    more = {**state.params, 'gain': jnp.zeros(5)}
    less = {'layer': state.params['layer']}
    return [
        (renamed, r'params\.other\.weight is absent there and float32\[64, 64\] here'),
        (wider, r'params\.bias is bfloat16\[5\] there and bfloat16\[6\] here'),
        (finer, r'params\.bias is bfloat16\[5\] there and float32\[5\] here'),
        (more, r'params\.gain is absent there'),
        (less, r'params\.bias is bfloat16\[5\] there and absent here'),
    ]


@pytest.mark.parametrize('case', range(5))
def test_a_checkpoint_of_another_recipe_is_refused(saved, case):
    params, words = other_recipes()[case]
    with Checkpoints(saved) as checkpoints, pytest.raises(InputError, match=words):
        checkpoints.restore(dataclasses.replace(make_state(0), params=params))
    assert steps_in(saved) == [1, 2], 'nothing may be moved'


# -- Damage ---------------------------------------------------------------------------------------


def flip_in_array(folder):
    file = largest_file(folder / 'state')
    flip_bit(file, 8 * (file.stat().st_size // 2) + 3)
    return 'wrong checksum of'


def truncate(folder):
    file = largest_file(folder / 'state')
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return 'truncated|size|OUT_OF_RANGE|DATA_LOSS|Error'


def empty_step(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    return 'Error'


def bad_json(folder):
    (folder / 'progress' / 'metadata').write_text('{"body": {')
    return 'JSONDecodeError'


def changed_json(folder):
    file = folder / 'progress' / 'metadata'
    saved = json.loads(file.read_text())
    saved['body']['progress']['step'] = 99
    file.write_text(json.dumps(saved))
    return 'wrong checksum of the progress file'


def missing_data_file(folder):
    largest_file(folder / 'state').unlink()
    return 'Error'


def missing_item(folder):
    shutil.rmtree(folder / 'state')
    return 'Error'


def bad_metadata(folder):
    (folder / 'state' / '_METADATA').write_text('nothing')
    return 'Error'


@pytest.mark.parametrize(
    'damage',
    [
        flip_in_array,
        truncate,
        empty_step,
        bad_json,
        changed_json,
        missing_data_file,
        missing_item,
        bad_metadata,
    ],
)
def test_damage_is_named_and_the_older_checkpoint_is_used(saved, caplog, damage):
    reason = damage(saved / '2')
    with Checkpoints(saved) as checkpoints:
        with caplog.at_level(logging.WARNING):
            state, progress = checkpoints.restore(make_state(0))
        assert progress == {'step': 1}
        assert bits(state) == bits(make_state(1))
        warning = next(r.getMessage() for r in caplog.records if 'damaged' in r.getMessage())
        assert 'checkpoint of step 2 is damaged' in warning
        assert any(word in warning for word in reason.split('|')), warning
        # It is out of the way, and the run can save the same step again.
        assert checkpoints.latest_step() == 1
        assert checkpoints.save(2, make_state(2), {'step': 2})
    assert (saved / 'damaged-2').exists()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.restore(make_state(0))[1] == {'step': 2}


def test_orbax_alone_does_not_notice_the_flipped_bit(saved):
    """Shows that the checksums have work to do; if this fails, Orbax has learned it."""
    flip_in_array(saved / '2')
    raw = ocp.PyTreeCheckpointHandler().restore(saved / '2' / 'state')
    good = np.asarray(make_state(2).params['layer'].weight)
    other = np.asarray(make_state(2).moments[0]['layer'].weight)
    same = np.array_equal(raw['params.layer.weight'], good)
    assert not (same and np.array_equal(raw['moments.0.layer.weight'], other))


def test_damage_that_a_reader_finds_leaves_the_folder_alone(saved):
    flip_in_array(saved / '2')
    with Checkpoints(saved, read_only=True) as checkpoints:
        params = checkpoints.restore_parameters(make_state(0).params)
        moments = checkpoints.restore_parameters(make_state(0).params, prefix='moments.0')
    assert steps_in(saved) == [1, 2]
    # The flipped bit is in one of the two: reading that one falls back.
    steps = {s for s in (1, 2) if bits(params) == bits(make_state(s).params)}
    steps |= {s for s in (1, 2) if bits(moments) == bits(make_state(s).moments[0])}
    assert steps == {1, 2}


def test_no_intact_checkpoint(saved):
    empty_step(saved / '1')
    bad_json(saved / '2')
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(InputError, match='does not hold an intact checkpoint'):
            checkpoints.restore_parameters(make_state(0).params)
        assert checkpoints.restore(make_state(0)) is None
        assert checkpoints.latest_step() is None


def test_a_folder_left_by_a_kill_inside_a_save_is_ignored_and_removed(saved):
    shutil.copytree(saved / '2', saved / '3.orbax-checkpoint-tmp')
    (saved / '3.orbax-checkpoint-tmp' / 'state' / '_METADATA').unlink()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.restore(make_state(0))[1] == {'step': 2}
    end = time.monotonic() + 30  # Orbax removes it in a thread, which nothing here waits for
    while (saved / '3.orbax-checkpoint-tmp').exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_any_flipped_bit_in_any_file_is_harmless_or_noticed(saved_once, tmp_path):
    """Thirty bits at random over all files of the newest step, the JSON and metadata included."""
    files = [p for p in (saved_once / '2').rglob('*') if p.is_file() and p.stat().st_size]
    rng = np.random.default_rng(0)
    used = []
    for trial in range(30):
        broken = tmp_path / f'broken{trial}'
        shutil.copytree(saved_once, broken)
        file = broken / files[rng.integers(len(files))].relative_to(saved_once)
        flip_bit(file, int(rng.integers(8 * file.stat().st_size)))
        with Checkpoints(broken) as checkpoints:
            state, progress = checkpoints.restore(make_state(0))
        used.append(progress['step'])
        assert bits(state) == bits(make_state(progress['step'])), file
        shutil.rmtree(broken)
    assert set(used) == {1, 2}, 'some flips hit data, some hit files that are not read'


# -- Checksums ------------------------------------------------------------------------------------


def reference(x):
    """The checksum in Python's integers, one word after the other."""

    def mix(h):
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        return h ^ (h >> 16)

    x = np.asarray(x)
    width = min(x.dtype.itemsize, 4)
    words = np.frombuffer(x.tobytes(), {1: np.uint8, 2: np.uint16, 4: np.uint32}[width])
    first = second = 0
    for i, word in enumerate(words.tolist()):
        first += mix(word ^ mix(i ^ 0x9E3779B9))
        second += mix((word + mix((i + 0x85EBCA6B) % 2**32)) % 2**32)
    return f'{first % 2**32:08x}{second % 2**32:08x}'


DTYPES = ['float32', 'bfloat16', 'int8', 'uint32', 'bool']


@pytest.fixture(params=[0, 2**16])
def computed(request, monkeypatch):
    """Computes checksums on the devices, and by NumPy."""
    monkeypatch.setattr('cdjax.run.checksums.AT_HAND', request.param)


@pytest.mark.parametrize('dtype', DTYPES)
def test_checksum_equals_a_plain_loop_on_every_sharding(computed, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 4)) * 40).astype(dtype)
    mesh = make_mesh(4, 2)
    for spec in (P('fsdp', None, 'tensor'), P(('fsdp', 'tensor'))):
        placed = jax.device_put(x, NamedSharding(mesh, spec))
        assert checksums({'x': placed}) == {'x': reference(x)}
    assert checksums({'x': x, 'y': x[:1]}) == {'x': reference(x), 'y': reference(x[:1])}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_every_single_flipped_bit_changes_both_halves(dtype):
    x = np.asarray(jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)) * 9).astype(dtype))
    flipped = []
    for bit in range(8 * x.nbytes):
        data = bytearray(x.tobytes())
        data[bit // 8] ^= 1 << bit % 8
        flipped.append(np.frombuffer(bytes(data), x.dtype).reshape(x.shape))
    good = checksums({'x': jnp.asarray(x)})['x']
    found = checksums({str(i): jnp.asarray(y) for i, y in enumerate(flipped)})
    assert len(found) == 8 * x.nbytes
    assert all(f[:8] != good[:8] and f[8:] != good[8:] for f in found.values())


def test_checksum_of_a_scalar(computed):
    x = jnp.float32(-1.5)
    assert checksums({'x': x}) == {'x': reference(x)}


def test_checksum_sees_exchanged_blocks_signs_of_zero_and_nans():
    x = jnp.arange(64.0).reshape(8, 8)
    pairs = [
        (x, x[::-1]),
        (x, x.T),
        (jnp.zeros(4), -jnp.zeros(4)),
        (jnp.zeros(4), jnp.zeros(5)[:4].at[0].set(jnp.nan)),
    ]
    for a, b in pairs:
        assert checksums({'x': a}) != checksums({'x': b})


def test_a_relative_folder_is_as_good_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints('runs/one', every=1) as checkpoints:
        checkpoints.save(1, {'w': jnp.arange(3.0)}, {'step': 1}, force=True)
    assert (tmp_path / 'runs' / 'one' / '1').is_dir()
