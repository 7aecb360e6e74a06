"""metrics.jsonl across kills, TensorBoard events, object stores."""

import json
import time

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from cdjax.run import metrics
from cdjax.run.metrics import MetricsWriter, read_metrics

SESSION_START = event_pb2.SessionLog.SessionStatus.Value('START')


def events_in(folder):
    """Reads TensorBoard's files with their own format: length, crc, record, crc."""
    for file in sorted(folder.glob('events.*')):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], 'little')
            yield event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def scalars_in_events(folder):
    return [(e.step, v.tag, v.simple_value) for e in events_in(folder) for v in e.summary.value]


def test_lines_hold_step_time_and_values(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, {'loss': np.float32(0.5), 'rate': 2}, prefix='train/')
        writer.write(20, {'loss': float('nan')})
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert {k: v for k, v in first.items() if k != 'time'} == {
        'step': 10,
        'train/loss': 0.5,
        'train/rate': 2.0,
    }
    assert second['loss'] is None, 'NaN is no JSON'
    assert second['time'] >= first['time'] > 1.7e9
    events = scalars_in_events(tmp_path)
    assert (10, 'train/loss', 0.5) in events
    assert (10, 'train/rate', 2.0) in events


def test_every_line_is_on_disk_at_once(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {'loss': 1.0})
    assert [r['step'] for r in read_metrics(tmp_path)] == [1]
    writer.close()


def test_resuming_drops_later_steps_and_half_a_line(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write(step, {'loss': step})
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 15, "lo')
    with MetricsWriter(tmp_path) as writer:
        writer.resume_at(20)
        writer.write(30, {'loss': 31.0})
    assert [(r['step'], r['loss']) for r in read_metrics(tmp_path)] == [
        (10, 10),
        (20, 20),
        (30, 31),
    ]
    assert not list(tmp_path.glob('.metrics*')), 'no partial file is left'
    starts = [e.step for e in events_in(tmp_path) if e.session_log.status == SESSION_START]
    assert starts == [21], 'TensorBoard forgets what came at step 21 or later'


def test_half_a_line_is_not_continued_without_resuming_either(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    with MetricsWriter(tmp_path) as writer:
        writer.write(3, {'loss': 3.0})
    assert [r['step'] for r in read_metrics(tmp_path)] == [1, 3]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.jax, 'process_index', lambda: 1)
    with MetricsWriter(tmp_path) as writer:
        writer.resume_at(3)
        writer.write(4, {'loss': 1.0})
        writer.flush()
    assert not list(tmp_path.iterdir())


def test_a_remote_workdir_gets_whole_files(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, 'is_remote', lambda path: True)
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {'loss': 1.0})
        assert not list(tmp_path.iterdir()), 'written to the spool only'
        writer.flush()
        assert [r['step'] for r in read_metrics(tmp_path)] == [1]
        writer.write(2, {'loss': 2.0})
        monkeypatch.setattr(metrics, '_UPLOAD_SECONDS', 0.0)
        writer.write(3, {'loss': 3.0})
        assert [r['step'] for r in read_metrics(tmp_path)] == [1, 2, 3]
    with MetricsWriter(tmp_path) as writer:
        writer.resume_at(2)
        writer.write(3, {'loss': 4.0})
    assert [r['loss'] for r in read_metrics(tmp_path)] == [1, 2, 4]
    assert (3, 'loss', 4.0) in scalars_in_events(tmp_path)


def test_events_that_are_written_late_are_uploaded_too(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, 'is_remote', lambda path: True)
    write = EventsWriter.write_event

    def late(self, event):
        time.sleep(0.1)
        write(self, event)

    monkeypatch.setattr(EventsWriter, 'write_event', late)
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {'loss': 1.0})
    assert (1, 'loss', 1.0) in scalars_in_events(tmp_path)


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path) == []
