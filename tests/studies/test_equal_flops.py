"""What a step costs as XLA counts it, and what KD's arithmetic buys of other arms."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import toy_study as toy

from cdjax.distillation.alignment import Alignment
from cdjax.models.flops import forward_flops
from cdjax.planning.distillation import DistillationJob
from cdjax.studies.equal_flops import at_equal_flops, step_flops
from cdjax.training.distillation import DistillationConfig
from cdjax.training.optimizer import OptimizerConfig


def test_a_step_costs_what_its_passes_and_comparisons_cost(monkeypatch):
    rows = toy.rows()
    inputs = SimpleNamespace(
        student_config=toy.student_config(),
        teacher_config=toy.teacher_config(),
        dataset=toy.dataset(),
        split=rows,
        teacher_dtype='float32',
    )
    config = DistillationConfig(OptimizerConfig(2, 1e-3), batch_size=32)
    cost = lambda alignment: step_flops(
        inputs, config, alignment, pretrained=False, mesh=toy.one_device()
    )
    pairs = Alignment(((0, 0), (1, 1)))
    classes = np.zeros(len(rows.share), np.int32)
    masks = np.ones((toy.K, toy.L, toy.F), bool)
    own = np.ones((toy.K, toy.L, toy.F // 2), bool)
    circuits = dataclasses.replace(pairs, classes=classes, teacher_masks=masks)
    patched = dataclasses.replace(circuits, student_masks=own, similarity='interchange')
    kd, last, both, moved = map(
        cost, (None, dataclasses.replace(circuits, pairs=((1, 1),)), circuits, patched)
    )
    assert kd < last < both
    # A forward pass, and a backward one of twice its products.
    bare = 3 * forward_flops(inputs.student_config, 32, toy.T, logits=32)
    assert 0.3 * bare < kd < 3 * bare
    # The source's pass and the patched one beside it.
    assert 2 * kd < moved < 4 * kd
    # Other neurons, of other problems: the same program.
    monkeypatch.delattr(DistillationJob, 'student_step')
    assert cost(dataclasses.replace(circuits, classes=classes + 1, teacher_masks=~masks)) == both


def run(arm, seed, *accuracies):
    return {
        'arm': arm,
        'seed': seed,
        'curve': [[50 * (i + 1), a] for i, a in enumerate(accuracies)],
    }


def test_what_the_arithmetic_of_kd_buys():
    runs = [run('kd', 0, 0.2, 0.4), run('kd', 1, 0.3, 0.5)]
    runs += [run('all', 0, 0.5, 0.7), run('all', 1, 0.4, 0.8), run('circuits', 0, 0.5, 0.7)]
    kd, everything, circuits = at_equal_flops(runs, {'kd': 6.0, 'all': 8.0, 'circuits': 18.0})
    assert (kd['steps'], kd['mean']) == (100, pytest.approx(0.45))
    assert 'gain' not in kd
    assert everything['steps'] == 75
    assert everything['accuracies'] == pytest.approx([0.6, 0.6])
    assert everything['gain'] == pytest.approx(np.mean([0.2, 0.1]))
    assert everything['gain_interval'] is not None
    assert circuits['steps'] == pytest.approx(100 / 3)
    assert (circuits['mean'], circuits['gain']) == (None, None), 'before the first evaluation'
