"""A store on disk: equal to that in memory, resumed after a kill, refused where it is another's."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.shard_folder import MANIFEST
from cdjax.distillation.shards import Shards, check_stored, stored_teacher
from cdjax.distillation.store import OnlineTeacher, TeacherStore, Wanted
from cdjax.errors import InputError

DATA = toy.dataset()[:20]
WANTED = Wanted(outputs=True)


def stored(folder, wanted=WANTED, data=DATA, teacher=None):
    return stored_teacher(folder, toy.model() if teacher is None else teacher, data, wanted, rows=8)


def checked(folder, wanted=WANTED, data=DATA, teacher=None, **options):
    check_stored(folder, toy.teacher_config(), data, wanted, teacher=teacher, **options)


@pytest.fixture(scope='module')
def memory():
    return TeacherStore.build(toy.model(), DATA, outputs=True)


def test_shards_are_indexed_like_one_array():
    whole = np.arange(60).reshape(20, 3)
    of_parts = Shards([whole[:8], whole[8:16], whole[16:]])
    assert (len(of_parts), of_parts.shape, of_parts.dtype) == (20, (20, 3), whole.dtype)
    for rows in (slice(None), slice(3, 18, 2), np.array([19, 0, 8, 7, 8]), np.array([], int)):
        np.testing.assert_array_equal(of_parts[rows], whole[rows])


def test_a_store_on_disk_is_the_one_in_memory_and_is_made_once(memory, tmp_path, monkeypatch):
    first = stored(tmp_path / 'store')
    assert (first.layers, first.vocab_size, len(first)) == ((0, 1), memory.vocab_size, 20)
    rows = np.array([17, 5, 8])
    np.testing.assert_allclose(first.logits_of(rows), memory.logits[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        first[3:].of_layers([1], rows - 3), memory.of_layers([1], rows), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(first.outputs, memory.outputs)
    assert isinstance(first.outputs, np.memmap)
    monkeypatch.setattr(Wanted, 'say', lambda *_, **__: pytest.fail('the teacher ran again'))
    again = stored(tmp_path / 'store')
    np.testing.assert_array_equal(again.logits_of(rows), first.logits_of(rows))


def test_what_was_stored_before_a_kill_is_not_computed_again(tmp_path, monkeypatch):
    asked, say = [], Wanted.say

    def killed(self, teacher, data, **passes):
        asked.append(len(data))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return say(self, teacher, data, **passes)

    monkeypatch.setattr(Wanted, 'say', killed)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / 'store')
    # What the kill left is written over: the manifest does not tell of it.
    (tmp_path / 'store' / 'logits-00001.npy').write_bytes(b'half')
    whole = stored(tmp_path / 'store')
    assert asked == [8, 8, 8, 4]
    assert len(whole) == 20
    assert np.isfinite(whole.logits_of(slice(None))).all()


def test_the_top_k_and_half_precision(tmp_path):
    bfloat16 = jax.tree.map(lambda x: x.astype('bfloat16'), toy.model())
    wanted = Wanted(layers=(1,), top_k=3, temperature=2.0)
    found = stored(tmp_path / 'store', wanted, teacher=bfloat16)
    expected = TeacherStore.build(bfloat16, DATA, layers=(1,), top_k=3, temperature=2.0)
    rows = np.array([9, 1])
    assert found.logits_of(rows).temperature == 2.0
    np.testing.assert_array_equal(found.logits_of(rows).indices, expected.logits_of(rows).indices)
    assert found.activations.dtype == expected.activations.dtype == 'bfloat16'
    np.testing.assert_allclose(
        found.of_layers([1], rows).astype(np.float32),
        expected.of_layers([1], rows).astype(np.float32),
        rtol=1e-2,
    )


def test_an_online_teacher_says_the_same(memory):
    online = OnlineTeacher.build(toy.model(), DATA, WANTED)[2:]
    rows = np.array([3, 0, 11])
    np.testing.assert_allclose(
        online.logits_of(rows), memory.logits[rows + 2], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        online.of_layers([1, 0], rows), memory.of_layers([1, 0], rows + 2), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_array_equal(online.outputs, memory.outputs)


def test_a_store_of_another_and_one_that_was_changed(tmp_path):
    folder = tmp_path / 'store'
    stored(folder)
    for message, changes in (
        ('is of another teacher: name another folder', {'teacher': toy.model(seed=5)}),
        ('is of other problems, or another split', {'data': toy.dataset()[1:21]}),
        ('is of another site', {'wanted': dataclasses.replace(WANTED, site='head_out')}),
        ('is of another site, other layers', {'wanted': dataclasses.replace(WANTED, layers=(1,))}),
        ('another form of the logits', {'wanted': dataclasses.replace(WANTED, top_k=2)}),
    ):
        for ask in (stored, checked):
            with pytest.raises(InputError, match=message):
                ask(folder, **changes)
    checked(folder)
    checked(folder, teacher=toy.model())
    checked(folder, data=toy.dataset()[1:21], problems_known=False)
    checked(tmp_path / 'none')
    file = folder / 'activations-00001.npy'
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    for ask in (stored, checked):
        with pytest.raises(InputError, match=r'00001.npy has [\d,]+ bytes and had [\d,]+: remove'):
            ask(folder)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match='is not what was written there: remove'):
        stored(folder)
    file.write_bytes(content)
    manifest = folder / MANIFEST
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {'format': 99}))
    with pytest.raises(InputError, match='is damaged, format 99'):
        stored(folder)
    for ask in (stored, checked):
        with pytest.raises(InputError, match='lies in a bucket'):
            ask('gs://bucket/store')
    with pytest.raises(InputError, match='name positions from 0 to 4'):
        stored(tmp_path / 'other', dataclasses.replace(WANTED, positions=(9,)))
