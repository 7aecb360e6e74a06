"""Many circuits of 2 to 20 % of the neurons on the same prompts, the rest at its mean."""

from pathlib import Path
from typing import Any

import numpy as np

from cdjax.inference import predict_circuits
from experiments.benchmarks.measure import OURS, compare, machine
from experiments.benchmarks.peers import installed
from experiments.benchmarks.subject import make_dataset, make_subject


def run(workdir: Path, *, shape: str, rows: int, rounds: int, masks: int) -> dict[str, Any]:
    """Measures a sweep; each peer runs its masked pass once for each mask."""
    subject = make_subject(shape, workdir, rows=rows)
    model, tokens, c = subject.model, subject.tokens, subject.model.config
    peers, absent = installed(subject.folder, c)
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
    found = compare(runs, rounds)
    return {'cases': {f'{masks} masks': found}, 'absent': absent, 'machine': machine()}
