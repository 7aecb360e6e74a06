"""The artefact of stage 1: one neuron mask a class, and all that is needed to use it again."""

import dataclasses
import hashlib
import json
import operator
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from cdjax.circuits.classifier import Encoding
from cdjax.circuits.masks import binarize
from cdjax.errors import InputError
from cdjax.models import Llama
from cdjax.run.buckets import check_client
from cdjax.run.checksums import checksums, tree_names
from cdjax.run.folder import write_atomically
from cdjax.run.json_file import read_json

FORMAT = 2

# What circuits belong to, by key of `info`: what a user calls it, and where they set it.
_ORIGINS = {
    'data': (
        'other problems than those of these flags',
        'give the task flags, and the unchanged task file, that it was discovered with',
    ),
    'rows': (
        'another split, and has learned from problems that are unseen here',
        'give the split flags that it was discovered with',
    ),
    'tokenizer': ('another tokenizer', "give it the tokenizer.json of the model's own folder"),
    'model': ('another model', 'name the checkpoint that it was discovered in'),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Circuit:
    """K circuits of one model.

    Attributes:
        masks: bool `[K, L, F]`, the neurons of each class's circuit.
        scores: float32 `[K, L, F]`, the ranking that they were cut from; any other size is one
            call of `at_size` away.
        fill: float32 `[L, T, F]`, the mean activations that ablation puts in place.
        assignments: int32 `[N]`, the class of each problem of the data set.
        classifier: `weight [E, K]`, `bias [K]`, `mean [E]`, `inverse_deviation [E]` of the linear
            classifier of encodings; empty where the classes were fixed beforehand.
        encoding: what the classifier reads, of the model named in `info['encoder']`.
        info: where all this comes from: hashes of the `model`, of the `data` (counterfactuals and
            labels too) and of the `rows` of it that were learned from; the `config` of the
            discovery and its `metrics`; of a launcher also the `tokenizer` and the `split`.
    """

    masks: np.ndarray
    scores: np.ndarray
    fill: np.ndarray
    assignments: np.ndarray
    classifier: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    info: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def hash(self) -> str:
        """A hash of masks, fill and classes, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for array in (self.masks, self.fill, self.assignments):
            digest.update(f'{array.dtype}{array.shape}'.encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.masks)

    @property
    def size(self) -> int:
        """Neurons of each circuit, over all layers."""
        return int(self.masks[0].sum())

    @property
    def share(self) -> float:
        """Neurons of a circuit as a share of all."""
        return float(self.masks[0].mean())

    def at_size(self, size: int) -> 'Circuit':
        """Returns the circuits of exactly `size` neurons with the highest scores."""
        return dataclasses.replace(self, masks=binarize(self.scores, size))

    def classify(self, encodings: np.ndarray) -> np.ndarray:
        """Returns the class of each problem, int32 `[N]`, by the classifier's largest logit.

        Args:
            encodings: float `[N, E]`, what `cdjax.inference.encode` returns for these problems of
                the model that the classifier reads (the teacher, in joint discovery) and for
                `self.encoding`. Circuits of one class need no classifier.

        Raises:
            InputError: circuits of fixed classes, which have no classifier; or prompts of another
                length than those it has learned from.
        """
        if self.num_classes == 1:
            return np.zeros(len(encodings), np.int32)
        if not self.classifier:
            raise InputError(
                'these circuits belong to classes that were fixed beforehand; there is no '
                'classifier to sort other problems: use `assignments`'
            )
        c = self.classifier
        if encodings.shape[1] != len(c['mean']):
            raise InputError(
                f'encodings of {encodings.shape[1]} features, and the classifier reads '
                f'{len(c["mean"])}: give it the model and prompts of the length that it was '
                'discovered with'
            )
        x = (encodings - c['mean']) * c['inverse_deviation']
        return np.argmax(x @ c['weight'] + c['bias'], axis=1).astype(np.int32)

    def differences(self, **wanted: str | None) -> list[str]:
        """Returns the keys of those hashes in `info` that are not the ones wanted.

        Args:
            **wanted: hashes by their key: `data`, `rows`, `tokenizer`, `model`.
        """
        return [key for key, value in wanted.items() if self.info.get(key) != value]

    def check_belongs(self, name: str, *, split: Mapping[str, Any], **wanted: str) -> None:
        """Raises InputError unless these circuits come from what they are going to be used with.

        Evaluated on problems that they were learned from, circuits show what they remember; in
        other weights they name neurons that mean nothing. Both give figures like any other.

        Args:
            name: what the user calls the circuits, `--circuits=PATH`.
            split: what decides the split in use, by name; for the message.
            **wanted: see `differences`. A hash that the circuits do not record is another one.
        """
        differing = self.differences(**wanted)
        if 'data' in differing and 'rows' in differing:
            differing.remove('rows')  # the rows of other problems are others anyway
        if not differing:
            return
        what = {key: _ORIGINS[key][0] for key in differing}
        theirs = self.info.get('split')
        if 'rows' in differing and theirs:
            pairs = (f'{key}={theirs.get(key)} there, {key}={split[key]} here' for key in split)
            what['rows'] += f' ({"; ".join(pairs)})'
        remedies = '; '.join(_ORIGINS[key][1] for key in differing)
        raise InputError(f'{name} comes from {" and ".join(what.values())}: {remedies}')

    def overlap(self, other: 'Circuit') -> np.ndarray:
        """Returns the intersection over union of all pairs of circuits, float64 `[K, K']`."""
        a, b = (
            masks.reshape(len(masks), -1).astype(np.float64) for masks in (self.masks, other.masks)
        )
        both = a @ b.T
        return both / np.maximum(a.sum(1)[:, None] + b.sum(1)[None] - both, 1)

    def save(self, path: epath.PathLike) -> epath.Path:
        """Writes `PATH.safetensors` and `PATH.json`, on process 0; each is replaced whole.

        On several processes all must call this: none returns before the files are there.

        Args:
            path: the name of both files, local or `gs://`, with or without an ending.

        Returns:
            The path of the safetensors file.
        """
        tensors_path, json_path = _paths(path)
        if jax.process_index() == 0:
            self._write(tensors_path, json_path)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f'saved {tensors_path}')
        return tensors_path

    def _write(self, tensors_path: epath.Path, json_path: epath.Path) -> None:
        tensors_path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            'masks': self.masks,
            'scores': self.scores,
            'fill': self.fill,
            'assignments': self.assignments,
            **{f'classifier.{name}': value for name, value in self.classifier.items()},
        }
        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        content = write_tensors(tensors, {'format': 'cdjax.circuit'})
        facts = {
            'format': FORMAT,
            'tensors': hashlib.sha256(content).hexdigest(),
            'classes': self.num_classes,
            'neurons': self.size,
            'share': self.share,
            'encoding': dataclasses.asdict(self.encoding),
            'info': self.info,
        }
        write_atomically(tensors_path, content)
        write_atomically(json_path, json.dumps(facts, indent=2) + '\n')

    @classmethod
    def load(cls, path: epath.PathLike) -> 'Circuit':
        """Reads what `save` has written.

        Raises:
            InputError: a missing or damaged file, or one of another kind.
        """
        check_client(path)
        if not os.fspath(path):
            raise InputError('no file of circuits is named: give its path')
        tensors_path, json_path = _paths(path)
        if not tensors_path.exists() and epath.Path(path).is_dir():
            raise InputError(
                f'{path} is a folder: name a file of circuits, as a run has them in circuits/'
            )
        for part in (tensors_path, json_path):
            if not part.exists():
                raise InputError(
                    f'{part} does not exist: circuits are a pair of .safetensors and .json, as '
                    'experiments.discover writes them'
                )
        try:
            facts, content = read_json(json_path), tensors_path.read_bytes()
            if facts['format'] != FORMAT:
                raise InputError(
                    f'{json_path} has format {facts["format"]} and this version reads {FORMAT}: '
                    'discover the circuits again'
                )
            if facts['tensors'] != hashlib.sha256(content).hexdigest():
                raise ValueError(f'{json_path.name} was written beside another one')
            tensors, info = read_tensors(content), dict(facts['info'])
            positions = facts['encoding']['positions']
            encoding = Encoding(
                operator.index(facts['encoding']['layer']),
                None if positions is None else tuple(map(operator.index, positions)),
            )
            prefix = 'classifier.'
            classifier = {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            plain = {name: tensors[name] for name in ('masks', 'scores', 'fill', 'assignments')}
            return cls(**plain, classifier=classifier, encoding=encoding, info=info)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f'{tensors_path} is not a circuit, or is damaged: {error}') from error


def _paths(path: epath.PathLike) -> tuple[epath.Path, epath.Path]:
    stem = epath.Path(path)
    name = stem.name.removesuffix('.safetensors').removesuffix('.json')
    return stem.parent / f'{name}.safetensors', stem.parent / f'{name}.json'


def model_hash(model: Llama) -> str:
    """Returns a hash of a model's shape and weights, 16 hexadecimal digits, on any mesh."""
    leaves = dict(zip(tree_names(model), jax.tree.leaves(model), strict=True))
    facts = {'config': dataclasses.asdict(model.config), 'weights': checksums(leaves)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def tokenizer_hash(tokenizer) -> str:
    """Returns a hash of a tokenizer's vocabulary, 16 hexadecimal digits."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]
