import os
import socket
import subprocess
import sys
from pathlib import Path

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
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / 'two_processes.py', str(process), *arguments],
            env={**os.environ, 'PYTHONPATH': str(HERE.parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    answers = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, answers, strict=True):
        assert process.returncode == 0, errors
    assert answers[0][0].count('exists and is not empty') == 2
    assert answers[1][0].count('process 0 says why') == 2
    theirs = load_file(tmp_path / 'source' / 'model.safetensors')
    files = sorted((tmp_path / 'target').glob('*.safetensors'))
    ours = {name: array for file in files for name, array in load_file(file).items()}
    assert {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
    assert len(files) > 1
    names = ('source', 'target', 'target-orbax')
    assert not [path for path in tmp_path.iterdir() if path.name not in names]
    save_huggingface(load_orbax(tmp_path / 'target-orbax', mesh=make_mesh()), tmp_path / 'again')
    again = load_file(tmp_path / 'again' / 'model.safetensors')
    assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in theirs.items()}
