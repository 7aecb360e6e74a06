"""Progress: a bar on a terminal, whole lines in a log file."""

import io
import types

import pytest

from cdjax.run import progress as module
from cdjax.run.progress import progress


@pytest.fixture
def stream(monkeypatch):
    stream = io.StringIO()
    # pytest puts its own stderr in place between the fixtures and the test.
    monkeypatch.setattr(module, 'sys', types.SimpleNamespace(stderr=stream))
    monkeypatch.setattr(module, '_written', [-float('inf')])
    return stream


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    return now


def test_a_bar_shows_rate_and_time_left_after_a_second(stream):
    stream.isatty = lambda: True
    now = [0.0]
    with progress(100, 'train', initial=40) as bar:
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = 0.0
        for _ in range(20):
            now[0] += 0.04
            bar.update(1)
        assert stream.getvalue() == '', 'nothing in the first second'
        for _ in range(20):
            now[0] += 0.1
            bar.update(1)
    shown = stream.getvalue()
    assert 'train' in shown
    assert '80/100' in shown
    assert 'step/s' in shown


def test_a_log_gets_a_line_every_half_a_minute_and_one_at_the_end(stream, clock):
    with progress(100, 'distill: kd', initial=20) as bar:
        for step in range(80):
            clock[0] += 1.0 if step else 11.0  # the first one compiles
            bar.set_postfix({'loss': '0.5'}, refresh=False)
            bar.update()
    assert stream.getvalue().splitlines() == [
        'distill: kd: step 40 of 100, 1 min 0 s left, 1 steps/s, loss 0.5',
        'distill: kd: step 70 of 100, 30 s left, 1 steps/s, loss 0.5',
        'distill: kd: 80 steps in 1 min 30 s (1 steps/s), loss 0.5',
    ]


def test_steps_that_were_only_dispatched_tell_no_time(stream, clock):
    with progress(700, 'train') as bar:
        clock[0] += 40.0  # the first step compiles
        bar.update()
        clock[0] += 0.01
        bar.update(9)
        clock[0] += 29.99
        bar.update(20)
        clock[0] += 1.0
        bar.update(1)
    first, second, _ = stream.getvalue().splitlines()
    assert first == 'train: step 10 of 700'
    assert second == 'train: step 31 of 700, 11 min 31 s left, 0.968 steps/s'


def test_passes_and_trainings_share_the_half_minute(stream, clock):
    for _ in range(50):  # a sweep of passes of two seconds each
        with progress(10, 'predict', unit='row', stage=False) as bar:
            clock[0] += 2.0
            bar.update(5)
            bar.update(5)
    assert stream.getvalue() == '', 'no pass is as long, and none is a stage'
    with progress(None, 'read', unit='row', stage=False) as bar:
        bar.update(5)
        clock[0] += 40.0
        bar.update(5)
    assert stream.getvalue() == 'read: row 10, 0.125 rows/s\n'


def test_short_work_is_worth_a_line_only_if_it_trained(stream, clock):
    for unit in ('tensor', 'step'):
        with progress(1, 'short', unit=unit) as bar:
            clock[0] += 0.5
            bar.update()
    assert stream.getvalue() == 'short: 1 step in 0.5 s\n'


def test_what_is_stopped_or_was_done_before_says_nothing(stream, clock):
    def stopped():
        with progress(9, 'x') as bar:
            clock[0] += 5.0
            bar.update()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with progress(9, 'x', initial=9):
        clock[0] += 5.0
    assert stream.getvalue() == ''


@pytest.mark.parametrize('tty', [True, False])
def test_other_processes_say_nothing(stream, monkeypatch, tty):
    stream.isatty = lambda: tty
    monkeypatch.setattr(module.jax, 'process_index', lambda: 1)
    with progress(5, 'x') as bar:
        bar.update(5)
    assert stream.getvalue() == ''


def test_times_are_told_as_people_tell_them():
    told = [module._seconds(s) for s in (0.25, 12.4, 61, 3599, 7800)]
    assert told == ['0.2 s', '12 s', '1 min 1 s', '59 min 59 s', '2 h 10 min']


def test_one_of_several_processes_writes_lines_with_its_name(stream, clock, monkeypatch):
    monkeypatch.setattr(module, '_one_of_several', [])
    stream.isatty = lambda: True
    module.write_lines('mean-0')
    for description in ('learn masks: one_mask', 'discover: mean-0'):
        with progress(2, description) as lines:
            clock[0] += 1.0
            lines.update(2)
    assert stream.getvalue().splitlines() == [
        'mean-0: learn masks: one_mask: 2 steps in 1.0 s',
        'discover: mean-0: 2 steps in 1.0 s',
    ]
