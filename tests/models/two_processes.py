"""Loads and saves a checkpoint as one of two processes; see test_checkpoint_processes.py."""

import sys

import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)

process, port, source, target = int(sys.argv[1]), *sys.argv[2:]
jax.distributed.initialize(f'127.0.0.1:{port}', num_processes=2, process_id=process)

from cdjax.errors import InputError  # noqa: E402 (after the distributed start)
from cdjax.models import load_huggingface, save_huggingface  # noqa: E402
from cdjax.models.orbax_folder import save_orbax  # noqa: E402
from cdjax.parallel.mesh import make_mesh  # noqa: E402

model = load_huggingface(source, mesh=make_mesh(2, 2))
assert not model.layers.mlp.up.weight[...].is_fully_addressable
save_huggingface(model, target, max_shard_bytes=50_000)
save_orbax(model, f'{target}-orbax', tokenizer_from=source, require_tokenizer=False)
for save, path in ((save_huggingface, target), (save_orbax, f'{target}-orbax')):
    try:
        save(model, path)
    except InputError as error:
        print(error)
