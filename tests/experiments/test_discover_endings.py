"""A discovery that ends badly says so to who started it, and keeps what is good."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import toy_study as toy
from launchers import run_in_turn

from cdjax.circuits.circuit import Circuit
from cdjax.data import save_tokenizer
from cdjax.models import save_huggingface
from cdjax.run.checkpoints import Checkpoints

CLASSES = 24  # more than a classifier of two steps gives problems to


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder, streams = (tmp_path_factory.mktemp(name) for name in ('endings', 'streams'))
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    model = toy.random_model(dataclasses.replace(toy.teacher_config(), num_layers=1))
    save_huggingface(model, folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    problems = ('--operands=2', '--high=9', '--least_accuracy=0', '--discovery_batch_size=24')
    problems += (f'--num_classes={CLASSES}', '--smallest_size=.05')
    sound = ('discover', f'--teacher={folder}/teacher', *problems, '--compilation_cache=')
    ways = {
        'dead': ('--discovery_steps=2', '--nocheck_gradients'),
        'nan': ('--discovery_steps=8', '--checkpoint_every=1', '--discovery_learning_rate=1e38'),
    }
    commands = {name: [*sound, f'--workdir={folder}/{name}', *own] for name, own in ways.items()}
    return folder, run_in_turn(commands, streams)


def test_classes_that_die_are_named_and_counted(outcomes):
    folder, ended = outcomes
    assert ended['dead'].code == 0, ended['dead'].err
    counts = Circuit.load(folder / 'dead' / 'circuits' / 'teacher').info['class_counts']
    assert sum(counts) < 100 * CLASSES, 'of so few problems a class has died that has none'
    empty = [k for k in range(CLASSES) if not counts[k]]
    assert 0 < len(empty) < CLASSES
    (line,) = re.findall('^warning: .*classes died.*$', ended['dead'].err, re.MULTILINE)
    assert f'{len(empty)} of {CLASSES} classes died: ' in line
    assert re.findall(r'class (\d+) has (\d+) problems', line) == [(str(k), '0') for k in empty]


def test_a_search_that_is_no_longer_finite_stops_and_keeps_what_was_good(outcomes):
    folder, ended = outcomes
    assert ended['nan'].code == 1
    (line,) = re.findall('^error: .*$', ended['nan'].err, re.MULTILINE)
    said = re.fullmatch(
        r'error: discover: by step (\d+) no longer finite: ([a-z_, ]+); step (\d+) is kept in '
        rf'{re.escape(str(folder))}/nan: try a lower learning rate',
        line,
    )
    assert said, line
    by, terms, kept = int(said[1]), said[2].split(', '), int(said[3])
    assert kept == by - 1
    assert {*terms} <= {'faithfulness', 'kl'}, 'the terms, and not the sum that they spoil'
    with Checkpoints(folder / 'nan' / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.latest_step() == kept
    assert not (folder / 'nan' / 'circuits').exists()
    lines = (folder / 'nan' / 'metrics.jsonl').read_text().splitlines()
    good = [point for point in map(json.loads, lines) if point['step'] <= kept]
    assert good
    assert all(np.isfinite(value) for point in good for value in jax.tree.leaves(point))
