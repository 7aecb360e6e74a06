"""Many circuits on the same prompts, the rest at its mean: small ones, and those of a study."""

from pathlib import Path
from typing import Any

import numpy as np

from cdjax.inference import predict, predict_circuits, predict_each
from cdjax.models import LlamaConfig
from experiments.benchmarks.measure import OURS, compare, machine
from experiments.benchmarks.peers import installed
from experiments.benchmarks.subject import make_dataset, make_subject, random_model

# Shape and problems of a study, about the demo's.
STUDY, PROBLEMS = LlamaConfig(109, 128, 512, 2, 4, 4, 32), 600


def run(
    workdir: Path, *, shape: str, rows: int, rounds: int, dtype: str, masks: int
) -> dict[str, Any]:
    """Measures a sweep; each peer runs its masked pass once for each mask."""
    subject = make_subject(shape, workdir, rows=rows, dtype=dtype)
    model, tokens, c = subject.model, subject.tokens, subject.model.config
    peers, absent = installed(subject.folder, c, dtype)
    dataset = make_dataset(tokens, subject.answers)
    sizes = np.geomspace(0.02, 0.2, masks)
    rng = np.random.default_rng(1)
    circuits = np.stack([rng.random((c.num_layers, c.intermediate_size)) < s for s in sizes])
    ours = lambda: predict_circuits(model, dataset, circuits[:, None], fill=subject.fill)

    masks_MxLx1x1xF = circuits[:, :, None, None]
    tensors = {p: (p.tensor(masks_MxLx1x1xF), p.tensor(subject.fill)) for p in peers.values()}

    def theirs(peer):
        masks, fill = tensors[peer]
        for mask in masks:
            peer.masked(tokens, mask, fill)

    runs = {OURS: ours, **{k: lambda peer=peer: theirs(peer) for k, peer in peers.items()}}
    cases = {f'{masks} masks': compare(runs, rounds), 'ten sizes of a study': _study(rounds)}
    return {'cases': cases, 'absent': absent, 'machine': machine(dtype)}


def _study(rounds):
    """Measures circuits of all sizes, one for each of four classes, in the shape of the demo's."""
    c, N, rng = STUDY, PROBLEMS, np.random.default_rng(2)
    model = random_model(c)
    tokens = lambda *shape: rng.integers(0, c.vocab_size, shape)
    dataset = make_dataset(tokens(N, 7), tokens(2, N))
    shape = (4, c.num_layers, c.intermediate_size)
    masks = [rng.random(shape) < share for share in np.geomspace(0.001, 1, 10)]
    fill = rng.normal(size=(c.num_layers, 7, c.intermediate_size)).astype(np.float32)
    how = {'classes': rng.integers(0, 4, N), 'fill': fill}
    runs = {
        'predict, one by one': lambda: [predict(model, dataset, masks=m, **how) for m in masks],
        'predict_each': lambda: predict_each(model, dataset, masks, **how),
    }
    one_by_one, each = (run() for run in runs.values())
    for one, other in zip(one_by_one, each, strict=True):
        np.testing.assert_allclose(one.logit_difference, other.logit_difference, atol=1e-4)
    return compare(runs, rounds, base='predict, one by one')
