"""The parity certificate: evidence that a model here computes what its checkpoint's model does.

Compared are the logits and the residual stream at every layer, in float32 and in bfloat16, on
fixed random tokens, against transformers (torch, imported only when asked for) or against what
transformers gave once, stored in a golden file.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cdjax.errors import InputError
from cdjax.models.config import LlamaConfig
from cdjax.models.llama import Llama
from cdjax.run.results import to_text

TOP = sys.float_info.max  # JSON knows no infinity
ROWS, LENGTH = 2, 128
DTYPES = ('float32', 'bfloat16')

# What is compared, by dtype, and its limit. A wrong RoPE scaling or epsilon shows at 1e-3 and more.
# float32: max|difference| / max|reference|. Two orders of summation differ by a few 1e-6 in the
# logits, but of a token that a rounding sends elsewhere: one of 256 is 27 times further off than
# the next in SmolLM2-135M, and in bfloat16 has nothing in common with its float32. So the logits
# of one token in a hundred may differ; its residual stream may not. That has a looser limit because
# its denominator is a matter of luck: with the one entry that SmolLM2-135M has at 200 times its
# mean it is 1e-6, without it up to 1.4e-5.
# bfloat16: the drift from the float32 reference over the reference's own drift in bfloat16, of the
# typical token (see `_drift`): equal arithmetic gives 1 within a few per cent, and ours rounds less
# often. One token's quotient is anything from 0.5 to 2 by chance (its logarithm deviates by 0.7),
# so all 256 are asked: of 16, one certificate in ten would call equal models unequal. A root mean
# square would be the rounding of that one entry, 0.3 to 3 by chance.
LIMITS = {
    'float32': {'logits': 1e-5, 'residual': 5e-5},
    'bfloat16': {'logits': 1.1, 'residual': 1.1},
}
MOST = 0.99  # of the tokens
FLOOR = 2.0**-24  # the least relative drift that counts, half a unit in float32's last place


@dataclasses.dataclass(frozen=True)
class Reference:
    """What another implementation computes on fixed tokens.

    Attributes:
        source: who computed it, with versions.
        tokens: int32 `[B, T]`.
        logits: by name of dtype, float32 `[B, T, V]`.
        residual: by name of dtype, float32 `[L, B, T, d]`, the input of each block.
    """

    source: str
    tokens: np.ndarray
    logits: dict[str, np.ndarray]
    residual: dict[str, np.ndarray]


def parity_tokens(config: LlamaConfig) -> np.ndarray:
    """Returns the tokens of a certificate, int32 `[2, 128]`, drawn from the whole vocabulary."""
    shape = (ROWS, min(LENGTH, config.max_length))
    return np.random.default_rng(0).integers(0, config.vocab_size, shape, dtype=np.int32)


def torch_reference(folder: str | os.PathLike, tokens: np.ndarray) -> Reference:
    """Runs transformers' own model of a checkpoint folder, in float32 and bfloat16, on the CPU.

    Args:
        folder: a Hugging Face checkpoint folder.
        tokens: int `[B, T]`.

    Raises:
        InputError: torch is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            'a comparison with transformers needs torch: pip install torch, or compare with '
            'a golden file (--golden)'
        ) from error
    transformers.utils.logging.disable_progress_bar()
    logits, residual = {}, {}
    for dtype in DTYPES:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation='eager'
        ).eval()
        with torch.no_grad():
            out = model(torch.tensor(tokens), output_hidden_states=True, use_cache=False)
        logits[dtype] = out.logits.float().numpy()
        # The last hidden state has been through the final norm; the logits stand for it.
        residual[dtype] = torch.stack(out.hidden_states[:-1]).float().numpy()
        del model, out
    source = f'transformers {transformers.__version__}, torch {torch.__version__}'
    return Reference(source, np.asarray(tokens, np.int32), logits, residual)


def own_reference(model: Llama, tokens: np.ndarray, source: str) -> Reference:
    """Returns what a model here computes, to compare another copy of it with.

    Args:
        model: the model.
        tokens: int `[B, T]`.
        source: what the certificate calls it.
    """
    runs = {dtype: _run(model, tokens, dtype) for dtype in DTYPES}
    logits = {dtype: logits for dtype, (logits, _) in runs.items()}
    residual = {dtype: residual for dtype, (_, residual) in runs.items()}
    return Reference(source, np.asarray(tokens, np.int32), logits, residual)


def save_reference(reference: Reference, path: str | os.PathLike) -> None:
    """Writes a golden file (safetensors), to be compared with where there is no torch.

    Raises:
        InputError: it cannot be written.
    """
    arrays = {'tokens': reference.tokens}
    for dtype in DTYPES:
        arrays[f'logits.{dtype}'] = reference.logits[dtype]
        arrays[f'residual.{dtype}'] = reference.residual[dtype]
    # safetensors stores a view of other strides in the wrong order, without a word.
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save(arrays, metadata={'source': reference.source}))
    except OSError as error:
        raise InputError(
            f'the golden file {path} could not be written ({error}): name another'
        ) from error


def load_reference(path: str | os.PathLike) -> Reference:
    """Reads a golden file.

    Raises:
        InputError: there is none, or it is something else.
    """
    try:
        with safe_open(Path(path).expanduser(), framework='np') as file:
            source = (file.metadata() or {})['source']
            logits = {dtype: file.get_tensor(f'logits.{dtype}') for dtype in DTYPES}
            residual = {dtype: file.get_tensor(f'residual.{dtype}') for dtype in DTYPES}
            return Reference(source, file.get_tensor('tokens'), logits, residual)
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f'{path} is no golden file ({error}): write one with --save_golden where torch is '
            'installed'
        ) from error


def measure_parity(model: Llama, reference: Reference) -> dict[str, Any]:
    """Compares a model with a reference.

    Args:
        model: the model, on any mesh.
        reference: what it is to equal.

    Returns:
        The measurements, ready for JSON: for each dtype the drift of the logits and of the
        residual of each layer from the float32 reference, the worst of them and the limits, and
        `equal`: whether all is within. `max` is max|difference| / max|reference|, `most` the same
        of all but one token in a hundred, `token` the geometric mean over tokens of
        ||difference|| / ||reference||; for bfloat16 the reference's own drift stands beside ours,
        and `worst` is in units of it.

    Raises:
        InputError: the reference is of a model of another shape.
    """
    config, tokens = model.config, reference.tokens
    shape = (config.num_layers, *tokens.shape, config.hidden_size)
    stored = reference.residual['float32'].shape
    if stored != shape or reference.logits['float32'].shape[-1] != config.vocab_size:
        raise InputError(
            f'the reference ({reference.source}) is of another model: its residual stream has the '
            f'shape {stored}, this model has {shape} and {config.vocab_size} tokens'
        )
    exact_logits, exact_residual = reference.logits['float32'], reference.residual['float32']
    result: dict[str, Any] = {
        'reference': reference.source,
        'tokens': {
            'shape': list(tokens.shape),
            'sha256': hashlib.sha256(np.ascontiguousarray(tokens, np.int32)).hexdigest(),
        },
    }
    for dtype in DTYPES:
        logits, residual = _run(model, tokens, dtype)
        ours = _drifts(logits, residual, exact_logits, exact_residual)
        if dtype == 'float32':
            worst = {
                'logits': ours['logits']['most'],
                'residual': max(layer['max'] for layer in ours['layers']),
            }
        else:
            theirs = _drifts(
                reference.logits[dtype], reference.residual[dtype], exact_logits, exact_residual
            )
            layers = zip(ours['layers'], theirs['layers'], strict=True)
            worst = {
                'logits': _ratio(ours['logits'], theirs['logits']),
                'residual': max(_ratio(*pair) for pair in layers),
            }
            ours['reference_drift'] = theirs
        limits = LIMITS[dtype]
        equal = all(worst[name] <= limit for name, limit in limits.items())
        result[dtype] = {'equal': equal, 'worst': worst, 'limits': limits, **ours}
    result['equal'] = all(result[dtype]['equal'] for dtype in DTYPES)
    return result


@functools.partial(jax.jit, static_argnames='dtype')
def _forward(model, tokens, dtype):
    logits, activations = model(tokens, capture=('residual',), dtype=dtype)
    return logits, activations['residual'].astype(jnp.float32)


def _run(model, tokens, dtype):
    logits, residual = _forward(model, tokens, jnp.dtype(dtype).type)
    return np.asarray(logits), np.asarray(residual)


def _drifts(logits, residual, exact_logits, exact_residual):
    return {
        'logits': _drift(logits, exact_logits),
        'layers': [_drift(a, b) for a, b in zip(residual, exact_residual, strict=True)],
    }


def _drift(ours, exact):
    """Returns relative distances; where one is not a number, the largest float, above any limit.

    Tokens are averaged by the logarithm of their drift, so that the quotient of two such means is
    the mean quotient of a token, and no token with a huge activation decides it.
    """
    exact = np.asarray(exact, np.float64)
    gap = np.asarray(ours, np.float64) - exact
    furthest = np.maximum(gap.max(axis=-1), -gap.min(axis=-1))
    largest = max(exact.max(), -exact.min())
    most = np.quantile(furthest, MOST, method='higher')
    length = lambda x: np.sqrt(np.einsum('...i,...i', x, x))
    tokens = length(gap) / np.maximum(length(exact), FLOOR)
    token = float(np.exp(np.log(np.maximum(tokens, FLOOR)).mean()))
    drifts = {'max': furthest.max() / largest, 'most': most / largest, 'token': token}
    return {name: float(x) if x < TOP else TOP for name, x in drifts.items()}


def _ratio(ours, theirs):
    # The embeddings of a bfloat16 checkpoint are exact in both, which is a quotient of 1.
    return min(ours['token'] / theirs['token'], TOP)


def describe_certificate(path: str | os.PathLike) -> str:
    """Returns the verdict of a certificate, a line for each stage and dtype."""
    body = json.loads(epath.Path(path).read_text())
    lines = [f'{path}: {"equal" if body["equal"] else "not equal"}']
    for stage, measured in body['stages'].items():
        for dtype in DTYPES:
            worst, limits = measured[dtype]['worst'], measured[dtype]['limits']
            found = (f'{name} {worst[name]:.2g} (limit {limits[name]:.2g})' for name in limits)
            lines.append(f'  {stage}, {dtype}: {", ".join(found)}, against {measured["reference"]}')
    return '\n'.join(lines)


def write_certificate(path: str | os.PathLike, stages: dict[str, dict[str, Any]]) -> None:
    """Writes the measurements of `measure_parity`, by stage (`load`, `export`), as JSON.

    Raises:
        InputError: a stage is not within its limits. The file is written all the same.
    """
    body = {'equal': all(stage['equal'] for stage in stages.values()), 'stages': stages}
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_text(body))
    for stage, measured in stages.items():
        for dtype in DTYPES:
            found = measured[dtype]
            for name, limit in found['limits'].items():
                if not found['worst'][name] <= limit:
                    raise InputError(
                        f'parity refused at {stage} in {dtype}: the drift of the {name} is '
                        f'{found["worst"][name]:.3g}, the limit {limit:.3g}, against '
                        f'{measured["reference"]}; {path} has it by layer'
                    )
