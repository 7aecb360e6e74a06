"""Patched answers on disk: those in memory, resumed, and refused where they are another's."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation import patched_store
from cdjax.distillation.alignment import Alignment
from cdjax.distillation.interchange import patch_teacher
from cdjax.distillation.patched_store import Draws, stored_interchange
from cdjax.distillation.shard_folder import MANIFEST
from cdjax.errors import InputError
from cdjax.studies.teacher_says import TeacherSays
from cdjax.training.distillation import DistillationConfig

DATA = toy.dataset()[:40]
MASKS = np.random.default_rng(0).random((2, toy.L, toy.F)) < 0.4
ALIGNED = Alignment(
    ((0, 0), (1, 0)),
    DATA.labels['operators'],
    MASKS,
    MASKS[:, :, :16],
    similarity='interchange',
)
INDEX = np.array([5, 0, 39, 5])


def stored(folder, teacher=None, data=DATA, alignment=ALIGNED, **options):
    teacher = toy.model() if teacher is None else teacher
    return stored_interchange(
        folder, teacher, data, alignment, **{'seed': 0, 'sources': 2} | options
    )


@pytest.mark.parametrize('top_k', [None, (3, 2.0)])
def test_a_batch_from_disk_is_that_from_memory(tmp_path, top_k):
    memory = patch_teacher(toy.model(), DATA, ALIGNED, seed=0, sources=2, top_k=top_k)
    disk = stored(tmp_path, top_k=top_k)
    for step in (0, 1):
        ours, theirs = (one.at(INDEX, step, DATA.tokens) for one in (disk, memory))
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_what_was_stored_before_a_kill_is_not_asked_again(tmp_path, monkeypatch):
    asked, patches = [], patched_store.patches

    def counted(*arguments, **options):
        drawn, said = patches(*arguments, **options)

        def killed(r):
            asked.append(r)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return said(r)

        return drawn, killed

    monkeypatch.setattr(patched_store, 'patches', counted)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path)
    first = stored(tmp_path)
    assert asked == [0, 1, 1]
    again = stored(tmp_path)
    assert asked == [0, 1, 1]
    batches = [one.at(INDEX, 0, DATA.tokens)['patched_logits'] for one in (first, again)]
    np.testing.assert_array_equal(*batches)
    assert all(isinstance(part, np.memmap) for part in again.logits.parts)
    # Other circuits, and other sources, lie beside them.
    stored(tmp_path, alignment=dataclasses.replace(ALIGNED, teacher_masks=~MASKS))
    stored(tmp_path, seed=1)
    assert asked == [0, 1, 1, 0, 1, 0, 1]
    assert len(list(tmp_path.iterdir())) == 3


def test_answers_of_another_teacher_and_damaged_ones_are_refused(tmp_path):
    stored(tmp_path)
    with pytest.raises(InputError, match='is of another teacher: name another folder'):
        stored(tmp_path, teacher=toy.model(seed=3))
    (manifest,) = tmp_path.glob(f'*/{MANIFEST}')
    cut = manifest.parent / 'logits-00001.npy'
    cut.write_bytes(cut.read_bytes()[:-8])
    with pytest.raises(InputError, match=r'logits-00001.npy has .* bytes and had'):
        stored(tmp_path)


def test_draws_are_indexed_like_one_array():
    whole = np.arange(60).reshape(5, 3, 4)
    draws = Draws([whole[:, r] for r in range(3)])
    problems, sources = np.array([4, 0, 4, 2]), np.array([2, 0, 0, 1])
    np.testing.assert_array_equal(draws[problems, sources], whole[problems, sources])
    assert (draws.shape, draws.dtype) == (whole.shape, whole.dtype)


@pytest.mark.parametrize('kept', ['memory', 'disk'])
def test_a_study_keeps_them_where_it_keeps_its_store(tmp_path, kept):
    place = 'memory' if kept == 'memory' else str(tmp_path / 'store')
    run = SimpleNamespace(inputs=SimpleNamespace(dataset=DATA), passes={})
    asked = SimpleNamespace(rows=np.arange(40), config=DistillationConfig(teacher_store=place))
    found = TeacherSays(run, asked, toy.model()).interchange(ALIGNED, 40, seed=0)
    assert isinstance(found.logits, Draws if kept == 'disk' else np.ndarray)
    assert (tmp_path / 'store/patched').exists() == (kept == 'disk')
