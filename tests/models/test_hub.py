import functools
import http.server
import importlib
import json
import os
import threading

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from torch_llama import SMALL

from cdjax.errors import InputError
from cdjax.models import load_huggingface
from cdjax.models.config import LlamaConfig
from cdjax.models.hub import resolve_checkpoint, resolve_shape
from cdjax.models.huggingface import read_config
from cdjax.studies.inputs import EMBEDDED_TEACHER

NAME = 'meta-llama/Llama-3.2-1B'


class Response:
    def __init__(self, status):
        self.status_code, self.headers, self.request = status, {}, None


def refuse(monkeypatch, error):
    def snapshot_download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)


def local_error(cause):
    error = errors.LocalEntryNotFoundError('no network\nand a long story')
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ('error', 'parts'),
    [
        (errors.RepositoryNotFoundError('x', response=Response(401)), ['(401)', 'hf auth login']),
        (errors.GatedRepoError('x', response=Response(401)), ['(401)', 'HF_TOKEN']),
        (
            errors.GatedRepoError('x', response=Response(403)),
            ['no access', '(403)', f'https://huggingface.co/{NAME}'],
        ),
        (errors.HfHubHTTPError('x', response=Response(403)), ['no access', '(403)']),
        (errors.RepositoryNotFoundError('x', response=Response(404)), ['(404)', 'spelling']),
        (errors.HfHubHTTPError('x', response=Response(503)), ['503', 'try again']),
        (local_error(ConnectionError()), ['cannot be reached', 'connect to the network']),
        (local_error(errors.OfflineModeIsEnabled()), ['HF_HUB_OFFLINE is set']),
        (TimeoutError('slow'), ['could not be fetched (slow)']),
    ],
    ids=['401', '401-gated', '403-gated', '403', '404', '503', 'unreachable', 'offline', 'timeout'],
)
def test_each_failure_has_its_own_line_and_offers_the_local_path(monkeypatch, error, parts):
    refuse(monkeypatch, error)
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(NAME)
    message = str(caught.value)
    assert '\n' not in message
    for part in [NAME, 'give the path of a local folder', *parts]:
        assert part in message


@pytest.mark.parametrize('path', ['/no/such/folder', './absent', 'one', 'a/b/c', '../up/there'])
def test_a_path_is_never_taken_for_an_id(monkeypatch, path):
    refuse(monkeypatch, AssertionError('the hub was asked'))
    with pytest.raises(InputError, match=f'there is no folder {path}'):
        resolve_checkpoint(path)


def test_a_local_folder_goes_first_and_needs_a_config(monkeypatch, tmp_path):
    refuse(monkeypatch, AssertionError('the hub was asked'))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'runs' / 'student'
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match='runs/student holds no config'):
        resolve_checkpoint('runs/student')
    (folder / 'config.json').write_text(json.dumps(SMALL.to_huggingface()))
    assert resolve_checkpoint('runs/student').samefile(folder)


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers for five repositories, and a record of the files it gave away."""

    def __init__(self, given, *args):
        self.given = given
        super().__init__(*args)

    FILES = {  # noqa: RUF012
        'config.json': json.dumps(SMALL.to_huggingface()),
        'model.safetensors': 'weights',
        'pytorch_model.bin': 'pickle',
        'original/consolidated.safetensors': 'a copy',
    }

    def log_message(self, *_):
        pass

    def answer(self, status, body='', **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body.encode())

    def do_GET(self):
        path = self.path.partition('?')[0]
        for name, status, code in (
            ('hidden', 401, 'RepoNotFound'),
            ('gated', 403, 'GatedRepo'),
            ('absent', 404, 'RepoNotFound'),
        ):
            if f'them/{name}' in path:
                return self.answer(status, X_Error_Code=code, X_Error_Message=code)
        names = [n for n in self.FILES if 'them/pickle' not in path or 'safetensors' not in n]
        if path.startswith('/api/models/') and '/tree/' in path:
            tree = [
                {'type': 'file', 'path': n, 'size': len(self.FILES[n]), 'oid': '1' * 40}
                for n in names
            ]
            return self.answer(200, json.dumps(tree), Content_Type='application/json')
        if path.startswith('/api/models/'):
            info = {
                'id': path.split('/models/')[1].partition('/revision')[0],
                'sha': 'c' * 40,
                'siblings': [{'rfilename': n} for n in names],
            }
            return self.answer(200, json.dumps(info), Content_Type='application/json')
        file = path.partition('c' * 40 + '/')[2]
        if self.command == 'GET':
            self.given.append(file)
        return self.answer(200, self.FILES[file], ETag='"1"', X_Repo_Commit='c' * 40)

    do_HEAD = do_GET


@pytest.fixture
def given(monkeypatch, tmp_path):
    """A server that huggingface_hub takes for the hub, by the names of the files it gave away."""
    given = []
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Hub, given))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
        'HF_HOME': str(tmp_path),
        'HF_HUB_OFFLINE': '0',
        'HF_HUB_DISABLE_XET': '1',
        'HF_HUB_DISABLE_PROGRESS_BARS': '1',
        'NO_PROXY': '127.0.0.1',
    }
    with monkeypatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        importlib.reload(constants)  # which reads them
        huggingface_hub.close_session()
        yield given
    server.shutdown()
    server.server_close()
    importlib.reload(constants)
    huggingface_hub.close_session()


def test_against_a_server_that_answers_as_the_hub_does(given):
    """huggingface_hub itself, its own errors and files."""
    assert sorted(os.listdir(resolve_checkpoint('them/open'))) == [
        'config.json',
        'model.safetensors',
    ]
    for name, status in (('hidden', '401'), ('gated', '403'), ('absent', '404')):
        with pytest.raises(InputError, match=rf'\({status}\).*local folder') as refused:
            resolve_checkpoint(f'them/{name}')
        assert '\n' not in str(refused.value)
    with pytest.raises(InputError, match='them/pickle holds no safetensors on the hub'):
        resolve_checkpoint('them/pickle')
    assert not [file for file in given if file.endswith('.bin') or '/' in file]


def test_shapes_need_no_weights(monkeypatch, tmp_path):
    refuse(monkeypatch, AssertionError('the hub was asked'))
    assert resolve_shape('llama3_70b') == (LlamaConfig.llama3_70b(), None)
    assert resolve_shape(f'{NAME}-Instruct') == (LlamaConfig.llama32_1b(), None)
    (tmp_path / 'config.json').write_text(json.dumps(SMALL.to_huggingface()))
    assert resolve_shape(tmp_path) == (SMALL, tmp_path)
    asked = []

    def snapshot_download(name, *, allow_patterns, **_):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
    assert resolve_shape('somebody/their-llama') == (SMALL, tmp_path)
    assert not any('safetensors' in pattern for _, patterns in asked for pattern in patterns)
    with pytest.raises(InputError, match=r'neither a preset .*llama31_8b.* nor a folder'):
        resolve_shape('llama3')


def test_a_model_is_loaded_by_its_id(monkeypatch):
    """What the hub's client hands out is read; without a network one line says so."""
    fetched = []

    def snapshot_download(name, **options):
        fetched.append(name)
        return str(EMBEDDED_TEACHER)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
    assert load_huggingface(NAME).config == read_config(EMBEDDED_TEACHER)
    assert fetched == [NAME, NAME], 'the config first'

    refuse(monkeypatch, local_error(errors.OfflineModeIsEnabled()))
    with pytest.raises(
        InputError, match=f'{NAME} is neither a folder here .*HF_HUB_OFFLINE is set'
    ):
        load_huggingface(NAME)
    with pytest.raises(InputError, match='there is no folder no such folder'):
        load_huggingface('no such folder')
