"""A workdir belongs to one run: what is refused, in which words, and that nothing changes."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from etils import epath

from cdjax.errors import InputError
from cdjax.run import folder
from cdjax.run.buckets import is_remote
from cdjax.run.folder import open_workdir, require_space, write_atomically


@dataclasses.dataclass(frozen=True)
class Options:
    rate: float = 0.1
    layers: tuple[int, ...] = (1, 2)


CONFIG = {'steps': 10, 'options': Options(), 'path': Path('x')}


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_new_folder_is_made_and_described(tmp_path):
    folder = open_workdir(tmp_path / 'a' / 'b', CONFIG, name='discover')
    assert isinstance(folder, epath.Path)
    assert json.loads((folder / 'config.json').read_text()) == {
        'version': 2,
        'name': 'discover',
        'steps': 10,
        'options': {'rate': 0.1, 'layers': [1, 2]},
        'path': 'x',
    }
    assert sorted(p.name for p in folder.iterdir()) == ['.lock', 'config.json']


def test_the_same_run_continues(tmp_path):
    folder = open_workdir(tmp_path / 'a', CONFIG, name='discover')
    (folder / 'metrics.jsonl').write_text('x')
    before = contents(folder)
    open_workdir(tmp_path / 'a', CONFIG, name='discover')
    # An option that has come since, and is off.
    open_workdir(tmp_path / 'a', {**CONFIG, 'more': None}, name='discover')
    assert contents(folder) == before


@pytest.mark.parametrize(
    ('config', 'name', 'words'),
    [
        (CONFIG, 'distill', 'another run, of discover and not of distill'),
        ({**CONFIG, 'steps': 20}, 'discover', 'steps is 10 there and 20 here'),
        (
            {**CONFIG, 'options': Options(rate=0.2)},
            'discover',
            'options.rate is 0.1 there and 0.2 here',
        ),
        ({**CONFIG, 'more': 0}, 'discover', 'more is absent there and 0 here'),
        ({'options': Options(), 'path': 'x'}, 'discover', 'steps is 10 there and absent here'),
    ],
)
def test_another_run_is_refused_and_nothing_overwritten(tmp_path, config, name, words):
    folder = open_workdir(tmp_path / 'a', CONFIG, name='discover')
    before = contents(folder)
    with pytest.raises(InputError) as error:
        open_workdir(tmp_path / 'a', config, name=name)
    assert words in str(error.value)
    assert '--workdir' in str(error.value)
    assert '\n' not in str(error.value)
    assert contents(folder) == before


def test_many_differences_are_counted(tmp_path):
    open_workdir(tmp_path / 'a', {c: 0 for c in 'bcdef'}, name='x')
    with pytest.raises(InputError, match=r'b is 0 .*; c is .*; d is .* \(and 2 more\)'):
        open_workdir(tmp_path / 'a', {c: 1 for c in 'bcdef'}, name='x')


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(InputError, match=r"holds 'thesis.tex' but no config.json"):
        open_workdir(tmp_path, CONFIG, name='discover')
    assert contents(tmp_path) == {'thesis.tex': b'x'}


def test_leftovers_of_a_killed_start_are_no_one_elses_work(tmp_path):
    (tmp_path / '.config.json.0123.partial').write_text('{"st')
    (tmp_path / '.cdjax-probe-0123').write_text('')
    (tmp_path / '.lock').write_text('')
    open_workdir(tmp_path, CONFIG, name='discover')


def test_a_run_of_another_version_is_not_continued(tmp_path):
    open_workdir(tmp_path / 'run', CONFIG, name='discover')
    file = tmp_path / 'run' / 'config.json'
    file.write_text(file.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(InputError, match='a run of version 3 and this is version 2, whose results'):
        open_workdir(tmp_path / 'run', CONFIG, name='discover')


def test_a_name_that_is_empty_is_no_folder():
    """As `--workdir=$RUN` is where no one has set RUN: it would be the current folder."""
    with pytest.raises(InputError, match='--workdir= names no folder'):
        open_workdir('', CONFIG, name='discover')


def test_a_broken_config_is_not_overwritten(tmp_path):
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(InputError, match='is damaged, no JSON'):
        open_workdir(tmp_path, CONFIG, name='discover')
    assert contents(tmp_path) == {'config.json': b'{'}


def test_a_file_in_the_way_and_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'below', Path('/proc/none/below')):
        with pytest.raises(InputError, match='cannot be written'):
            open_workdir(path, CONFIG, name='discover')


@pytest.mark.parametrize('code', [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_read_only_and_full_disks(tmp_path, monkeypatch, code):
    folder = open_workdir(tmp_path / 'a', CONFIG, name='discover')
    before = contents(folder)

    def refuse(self, data):
        raise OSError(code, 'no', str(self))

    monkeypatch.setattr(type(folder), 'write_bytes', refuse)
    with pytest.raises(InputError, match='cannot be written'):
        open_workdir(tmp_path / 'a', CONFIG, name='discover')
    assert contents(folder) == before


def test_space_that_is_missing_is_named_in_megabytes(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=3_000_000))
    require_space(folder, 2_900_000, 'a checkpoint')
    with pytest.raises(InputError, match=r'a checkpoint needs 12\.5 MB .* has 3\.0 MB left'):
        require_space(folder, 12_500_000, 'a checkpoint')


def test_what_json_lacks_is_refused(tmp_path):
    with pytest.raises(TypeError, match='cannot be part of a config'):
        open_workdir(tmp_path / 'a', {'f': len}, name='x')


def test_a_kill_between_writing_and_renaming_leaves_the_old_file(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / 'file'
    write_atomically(path, 'old')

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, 'new')
    assert path.read_text() == 'old'


def test_buckets_are_remote():
    assert is_remote('gs://bucket/run')
    assert is_remote(epath.Path('gs://bucket/run'))
    assert not is_remote('/home/run')


def test_the_other_process_does_not_write_and_wants_a_shared_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.jax, 'process_index', lambda: 1)
    monkeypatch.setattr(folder, 'VISIBLE_SECONDS', 0.1)
    with pytest.raises(InputError, match='all hosts share'):
        open_workdir(tmp_path / 'a', CONFIG, name='x')
    assert not (tmp_path / 'a').exists()
