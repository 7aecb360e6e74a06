import socket
from pathlib import Path

from forks import Fork
from safetensors.numpy import load_file
from torch_llama import SMALL, random_torch_llama

from cdjax.models import save_huggingface
from cdjax.models.orbax_folder import load_orbax
from cdjax.parallel.mesh import make_mesh

HERE = Path(__file__).parent


def test_two_processes_load_and_save_together(tmp_path):
    """Each holds half of the model; it is written whole, and both learn of a refusal."""
    random_torch_llama(SMALL).save_pretrained(tmp_path / 'source')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    arguments = [str(port), str(tmp_path / 'source'), str(tmp_path / 'target')]
    said = [tmp_path / f'said-{process}' for process in range(2)]
    processes = [
        Fork(str(HERE / 'two_processes.py'), [str(process), *arguments], out=log, err=log)
        for process, log in enumerate(said)
    ]
    assert [process.wait() for process in processes] == [0, 0], [log.read_text() for log in said]
    assert said[0].read_text().count('exists and is not empty') == 2
    assert said[1].read_text().count('process 0 says why') == 2
    theirs = load_file(tmp_path / 'source' / 'model.safetensors')
    files = sorted((tmp_path / 'target').glob('*.safetensors'))
    ours = {name: array for file in files for name, array in load_file(file).items()}
    assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
    assert len(files) > 1
    names = ('source', 'target', 'target-orbax', 'said-0', 'said-1')
    assert not [path for path in tmp_path.iterdir() if path.name not in names]
    save_huggingface(load_orbax(tmp_path / 'target-orbax', mesh=make_mesh()), tmp_path / 'again')
    again = load_file(tmp_path / 'again' / 'model.safetensors')
    assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in theirs.items()}
