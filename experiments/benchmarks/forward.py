"""A forward pass with another neuron mask for each prompt, with mean ablation, and with capture."""

from pathlib import Path
from typing import Any

import jax

from cdjax.models import Capture, Edit
from experiments.benchmarks.measure import OURS, against_limit, compare, machine
from experiments.benchmarks.peers import installed
from experiments.benchmarks.subject import check_equal, make_subject


def run(workdir: Path, *, shape: str, rows: int, rounds: int, dtype: str) -> dict[str, Any]:
    """Measures logits and neurons at the last position against all installed peers."""
    subject = make_subject(shape, workdir, rows=rows, dtype=dtype)
    model, tokens = subject.model, subject.tokens
    peers, absent = installed(subject.folder, model.config, dtype)
    edited = jax.jit(lambda m, t, edit: m(t, edits={'neurons': edit}, logits_at=-1)[0])
    capture = (Capture('neurons', positions=(-1,)),)
    reading = jax.jit(lambda m, t: m(t, capture=capture, logits_at=-1)[1]['neurons'][:, :, 0])
    masks, fill = jax.device_put((subject.masks, subject.fill[:, None]))
    tensors = {
        peer: (peer.tensor(subject.masks), peer.tensor(subject.fill)) for peer in peers.values()
    }
    cases = {
        'mask': (
            lambda: edited(model, tokens, Edit(masks)),
            lambda peer: peer.masked(tokens, tensors[peer][0]),
        ),
        'mean ablation': (
            lambda: edited(model, tokens, Edit(masks, center=fill)),
            lambda peer: peer.masked(tokens, *tensors[peer]),
        ),
        'capture': (lambda: reading(model, tokens), lambda peer: peer.captured(tokens)),
    }
    found, limit = {}, machine(dtype)
    for name, (ours, theirs) in cases.items():
        runs = {OURS: lambda ours=ours: jax.block_until_ready(ours())}
        runs |= {k: lambda peer=peer, theirs=theirs: theirs(peer) for k, peer in peers.items()}
        expected = runs[OURS]()
        for peer in peers:
            check_equal(expected, runs[peer](), subject.dtype)
        found[name] = compare(runs, rounds)
        found[name] |= against_limit(subject.flops, found[name], limit)
    return {'cases': found, 'absent': absent, 'machine': limit}
