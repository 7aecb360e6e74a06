"""A whole run with its workdir in a bucket, killed and continued; no real bucket is asked."""

import dataclasses
import json
import os
import signal

import pytest
import toy_pipeline
import toy_study as toy
from etils import epath
from fake_bucket import fake_bucket

from cdjax.circuits.circuit import Circuit
from cdjax.data import batch_indices, save_tokenizer
from cdjax.errors import InputError
from cdjax.models import load_huggingface, save_huggingface
from cdjax.parallel.preemption import Preempted
from cdjax.report import write
from cdjax.run import buckets
from cdjax.run.buckets import check_client, local_folder, outgoing_folder
from cdjax.run.folder import VERSION
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.pipeline import Pipeline
from cdjax.training import discovery, discovery_step, distillation
from cdjax.training.distillation import DistillationConfig
from cdjax.training.gradient_reports import GradientReport
from cdjax.training.optimizer import OptimizerConfig

STEPS = OptimizerConfig(6, 1e-2)


@pytest.fixture(scope='module')
def bucket():
    with fake_bucket() as address:
        yield address


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoints')
    save_tokenizer(toy.tokenizer(), folder / 'tokenizer')
    shape = dataclasses.replace(toy.teacher_config(), num_layers=1, intermediate_size=16)
    model = toy.random_model(shape)
    save_huggingface(model, folder / 'teacher', tokenizer_from=folder / 'tokenizer')
    return folder / 'teacher'


def start(workdir, teacher):
    config = toy_pipeline.make_config(
        teacher,
        study=CircuitStudyConfig(sizes=(0.25, 1.0), areas=False, methods=(), max_problems=30),
        rediscover=(),
        arms=ArmsConfig(
            DistillationConfig(STEPS, batch_size=32),
            arms=('circuits',),
            evaluate_every=3,
            max_problems=30,
        ),
    )
    search = dataclasses.replace(config.discovery, optimizer=STEPS)
    config = dataclasses.replace(config, discovery=search)
    return Pipeline(config, workdir, mesh=toy.one_device())


@pytest.mark.usefixtures('one_step_a_dispatch')
def test_a_pipeline_in_a_bucket_is_stopped_and_continued(bucket, teacher, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # The doctor compiles each step once more, and has tests of its own.
    no_doctor = lambda *_, **__: lambda *_: GradientReport('loss', (), {})
    for module in (discovery_step, distillation):
        monkeypatch.setattr(module, 'GradientDoctor', no_doctor)
    asked = []

    def stopping(*args, step, **options):
        asked.append(step)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_indices(*args, step=step, **options)

    monkeypatch.setattr(discovery, 'batch_indices', stopping)
    workdir = f'{bucket}/runs/pipeline'
    with pytest.raises(Preempted, match='saved in gs://lab/runs/pipeline/stages/discover'):
        start(workdir, teacher).run()
    stopped_at = len(asked)
    pipeline = start(workdir, teacher)
    results = pipeline.run()
    assert 0 < asked[stopped_at] < 6, 'it continued'
    # What a page says has tests of its own: here it is made of what lies in the bucket.
    made_of = []
    monkeypatch.setattr(write, 'render', lambda *parts: made_of.append(parts) or '<!doctype html>')
    write.write_report(pipeline.workdir, results)

    there = epath.Path(workdir)
    assert (there / 'report.html').read_text() == '<!doctype html>'
    ((shown, config, histories, _),) = made_of
    assert (shown, config) == (results, json.loads((there / 'config.json').read_text()))
    assert {name: points[-1]['step'] for name, points in histories.items()} == {
        'discover/teacher': 6,
        'distill/nothing-circuits-0': 6,
    }
    assert json.loads((there / 'results.json').read_text()) == {'version': VERSION, **results}
    log = (there / 'stages/discover/teacher/metrics.jsonl').read_text().splitlines()
    assert json.loads(log[-1])['step'] == 6
    assert Circuit.load(there / 'circuits' / 'teacher').num_classes == 2
    assert load_huggingface(there / 'student').config == pipeline.shared.inputs.student_config
    assert list(tmp_path.iterdir()) == [], 'nothing was written beside the bucket'

    other = dataclasses.replace(pipeline.config, layer_pairs='depth')
    with pytest.raises(InputError, match='gs://lab/runs/pipeline holds another run'):
        Pipeline(other, workdir, mesh=toy.one_device())


def test_folders_go_and_come_whole(bucket, tmp_path):
    target = f'{bucket}/folders/a'
    for content in ('old', 'new'):  # the second time over the first
        with outgoing_folder(target, last='b.txt') as folder:
            (folder / 'within').mkdir()
            (folder / 'within' / 'c.txt').write_text(content)
            (folder / 'b.txt').write_text(content)
    with local_folder(target) as folder:
        assert (folder / 'b.txt').read_text() == 'new'
    assert not folder.exists()
    assert (epath.Path(target) / 'within' / 'c.txt').read_text() == 'new'
    with local_folder(tmp_path) as folder:
        assert folder == tmp_path
    with pytest.raises(InputError, match='a/none is no folder'), local_folder(f'{target}/none'):
        pass


def test_a_bucket_without_its_client(monkeypatch):
    monkeypatch.setattr(buckets.importlib.util, 'find_spec', lambda name: None)
    check_client('/a/disk')
    for path in ('s3://lab/run', 'gs://', 'gs:///run'):
        with pytest.raises(InputError, match='name a local folder, or gs://BUCKET/FOLDER'):
            check_client(path)
    with pytest.raises(InputError, match=r'gs://lab/run lies in a bucket.* pip install gcsfs'):
        check_client('gs://lab/run')
