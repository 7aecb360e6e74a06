"""A few hundred mistakes: by launcher, the flags and words that the one line must hold.

`{x}` in a flag or a word is a file or folder of `make_files`.
"""

import contextlib
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import toy_study as toy
from safetensors.numpy import load_file, save_file

from cdjax.circuits.circuit import Circuit, model_hash
from cdjax.data import save_tokenizer
from cdjax.distillation.pairings import LAST
from cdjax.distillation.readings import ACTIVATIONS
from cdjax.distillation.shard_folder import MANIFEST
from cdjax.distillation.shards import stored_teacher
from cdjax.models import save_huggingface
from cdjax.models.tensor_files import INDEX, SINGLE
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.inputs import Inputs, InputsConfig
from cdjax.studies.students import asked_of_teacher

GOOD = {'prompt': '3+4=', 'answer': '7'}
BROKEN_LINES = {
    'cut': ('{"prompt": "3+', 'no JSON'),
    'list': ('[1, 2]', 'expected an object'),
    'number': ('5', 'expected an object'),
    'null': ('null', 'expected an object'),
    'nothing': ('{}', '"prompt" is null'),
    'prompt_number': ('{"prompt": 5, "answer": 1}', '"prompt" is 5'),
    'prompt_empty': ('{"prompt": "", "answer": 1}', '"prompt" is ""'),
    'prompt_half': (r'{"prompt": "\ud800", "answer": 1}', 'is no text'),
    'no_answer': ('{"prompt": "3+4="}', 'no "answer"'),
    'answer_null': ('{"prompt": "3+4=", "answer": null}', 'no "answer"'),
    'answer_float': ('{"prompt": "3+4=", "answer": 7.0}', '"answer" is 7.0'),
    'answer_bool': ('{"prompt": "3+4=", "answer": true}', '"answer" is true'),
    'answer_empty': ('{"prompt": "3+4=", "answer": ""}', '"answer" is ""'),
    'answer_list': ('{"prompt": "3+4=", "answer": [7]}', '"answer" is [7]'),
    'answer_half': (r'{"prompt": "3+4=", "answer": "\udc00"}', 'is no text'),
    'two_answers': ('{"prompt": "3+4=", "answer": 7, "label": 8}', 'differ'),
    'other_number': ('{"prompt": "3+4=", "answer": 7, "counterfactual": 5}', 'is 5'),
    'other_empty': ('{"prompt": "3+4=", "answer": 7, "counterfactual": {}}', '"prompt" is null'),
    'other_unknown': ('{"prompt": "3+4=", "answer": 7, "counterfactual": "x"}', 'is not known'),
    'others_list': ('{"prompt": "3+4=", "answer": 7, "counterfactuals": [1]}', 'named'),
    'other_suffix': ('{"prompt": "3+4=", "answer": 7, "a_counterfactual": 7}', '"a" is 7'),
    'digits': ('{"prompt": "3+4=", "answer": ' + '7' * 5000 + '}', 'limit'),
    'deep': ('[' * 100_000, 'nested too deeply'),
    'bytes': (b'{"prompt": "\xff", "answer": 7}', 'no UTF-8'),
}


def make_files(folder: Path) -> dict[str, Path]:
    """Makes sound and broken checkpoints, circuits, task files and runs; returns them by name."""
    make = _Files(folder)
    make.checkpoints()
    make.circuits()
    make.tasks()
    make.stores()
    make.runs()
    make.addresses()
    return make.files


class _Files:
    def __init__(self, folder):
        self.folder, self.files = folder, {'folder': folder}

    def _new(self, name):
        self.files[name] = self.folder / name
        return self.files[name]

    def checkpoints(self):
        save_tokenizer(toy.tokenizer(), self._new('tokenizer'))
        for name, model in (
            ('teacher', toy.model()),
            ('other', toy.model(seed=1)),
            ('small', toy.model(student=True)),
        ):
            save_huggingface(model, self._new(name), tokenizer_from=self.files['tokenizer'])
        many = self._new('many')
        save_huggingface(
            toy.model(), many, tokenizer_from=many.with_name('tokenizer'), max_shard_bytes=4000
        )
        self._configs()
        self._weights()
        self._tokenizers()

    def _copy(self, name, of='teacher'):
        return shutil.copytree(self.files[of], self._new(name))

    def _configs(self):
        fields = json.loads((self.files['teacher'] / 'config.json').read_text())
        lacking = {key: value for key, value in fields.items() if 'rope' not in key}
        for name, content in {
            'config_cut': '{"hidden_size": 1',
            'config_list': '[]',
            'config_gpt2': json.dumps(fields | {'model_type': 'gpt2'}),
            'config_text': json.dumps(fields | {'hidden_size': '16'}),
            'config_rope': json.dumps(lacking),
            'config_infinite': json.dumps(fields | {'rope_theta': float('inf')}),
            'config_heads': json.dumps(fields | {'num_attention_heads': 0}),
            'config_groups': json.dumps(fields | {'num_key_value_heads': 3}),
            'config_odd': json.dumps(fields | {'head_dim': 5}),
            'config_gelu': json.dumps(fields | {'hidden_act': 'gelu'}),
            'config_window': json.dumps(fields | {'sliding_window': 7}),
            'config_huge': json.dumps(fields | {'hidden_size': 2**62}),
            'config_wide': json.dumps(fields | {'hidden_size': 32}),
            'vocabulary': json.dumps(fields | {'vocab_size': 31}),
        }.items():
            (self._copy(name) / 'config.json').write_text(content)
        (self._copy('config_none') / 'config.json').unlink()

    def _weights(self):
        whole = (self.files['teacher'] / SINGLE).read_bytes()
        for name, content in {
            'weights_cut': whole[:-100],
            'weights_empty': b'',
            'weights_garbage': b'x' * 100,
            'weights_header': whole[:8] + b'[' + whole[9:],
        }.items():
            (self._copy(name) / SINGLE).write_bytes(content)
        (self._copy('weights_none') / SINGLE).unlink()
        pickled = self._copy('weights_pickle') / SINGLE
        pickled.rename(pickled.with_name('pytorch_model.bin'))
        tensors = load_file(self.files['teacher'] / SINGLE)
        norm = 'model.norm.weight'
        longer = lambda name: np.concatenate([tensors[name], tensors[name][:1]])
        ends = ('model.embed_tokens.weight', 'lm_head.weight')
        for name, changed in {
            'vocabulary': tensors | {end: longer(end) for end in ends},
            'tensor_missing': {key: value for key, value in tensors.items() if key != norm},
            'tensor_extra': tensors | {'model.norm.bias': tensors[norm]},
            'tensor_misshapen': tensors | {norm: tensors[norm][:-1]},
            'tensor_integer': tensors | {norm: tensors[norm].astype(np.int32)},
            'tensor_double': tensors | {norm: tensors[norm].astype(np.float64)},
        }.items():
            folder = self.files[name] if name in self.files else self._copy(name)
            save_file(changed, folder / SINGLE)
        index = json.loads((self.files['many'] / INDEX).read_text())
        outside = dict.fromkeys(index['weight_map'], f'../teacher/{SINGLE}')
        for name, content in {
            'index_cut': '{"weight_map": {',
            'index_list': '[]',
            'index_outside': json.dumps({'weight_map': outside}),
            'index_absolute': json.dumps({'weight_map': dict.fromkeys(outside, '/etc/hostname')}),
        }.items():
            (self._copy(name, 'many') / INDEX).write_text(content)
        next(self._copy('index_lacks', 'many').glob('model-00003*')).unlink()

    def _tokenizers(self):
        for path in self._copy('tokenizer_none').glob('tokenizer*'):
            path.unlink()
        (self._copy('tokenizer_cut') / 'tokenizer.json').write_text('{"version": ')
        (self._copy('tokenizer_list') / 'tokenizer.json').write_text('[]')
        config = self._copy('tokenizer_no_bos') / 'tokenizer_config.json'
        fields = json.loads(config.read_text())
        config.write_text(json.dumps({key: v for key, v in fields.items() if key != 'bos_token'}))
        trained = {'version': 1, 'trainings': 'all of them'}
        (self._copy('trained_badly') / 'training_data.json').write_text(json.dumps(trained))

    def circuits(self):
        inputs = Inputs(InputsConfig(toy.TASK, teacher=str(self.files['teacher'])))
        L, F, T, K = toy.L, toy.F, toy.T, toy.K
        rng = np.random.default_rng(0)
        scores = rng.random((K, L, F), np.float32)
        info = {
            **inputs.origin,
            'model': model_hash(toy.model()),
            'data': inputs.dataset.hash,
            'rows': inputs.dataset[inputs.split.train].hash,
        }
        sound = Circuit(
            masks=scores > 0.5,
            scores=scores,
            fill=np.zeros((L, T, F), np.float32),
            assignments=rng.integers(K, size=len(inputs.dataset), dtype=np.int32),
            info=info,
        )
        narrow = Circuit(sound.masks[..., :8], scores[..., :8], sound.fill, sound.assignments)
        for name, circuit in {'circuits': sound, 'circuits_narrow': narrow}.items():
            self.files[name] = circuit.save(self.folder / name)
        self.files['circuits_description'] = self.folder / 'circuits.json'
        for name, change in {
            'circuits_old': lambda text: text.replace('"format": 2', '"format": 1'),
            'circuits_cut': lambda text: text[:50],
            'circuits_pair': lambda text: text.replace('"tensors": "', '"tensors": "0'),
        }.items():
            shutil.copy(self.files['circuits'], self._new(name).with_suffix('.safetensors'))
            text = (self.folder / 'circuits.json').read_text()
            self.files[name].with_suffix('.json').write_text(change(text))
        (self._new('circuits_half').with_suffix('.json')).write_text(text)

    def tasks(self):
        for name, (line, _) in BROKEN_LINES.items():
            text = line if isinstance(line, bytes) else line.encode()
            sound = json.dumps(GOOD).encode()
            self._new(f'line_{name}').write_bytes(b'\n'.join([sound] * 3 + [text, sound]))
        self._new('task_empty').write_text('\n\n')
        self._new('task_binary').write_bytes(bytes(range(256)))
        words = [{'prompt': f'how much is {a}?', 'answer': 'a lot'} for a in range(9)]
        self._new('task_words').write_text('\n'.join(map(json.dumps, words)))
        alike = [{'prompt': f'{a}+{9 - a}=', 'answer': 9} for a in range(9)]
        self._new('task_alike').write_text('\n'.join(map(json.dumps, alike)))
        answers = [{'prompt': f'{a}+{b}=', 'answer': 100 + a + b} for a in range(9) for b in (1, 2)]
        self._new('task_answers').write_text('\n'.join(map(json.dumps, answers)))

    def stores(self):
        """Makes what teachers say of the problems of a table of arms."""
        inputs = Inputs(InputsConfig(toy.TASK, teacher=str(self.files['teacher'])))
        asked = asked_of_teacher(inputs, ArmsConfig(), LAST.key)
        for name, model in {'store': toy.model(), 'store_other': toy.model(seed=1)}.items():
            folder = self._new(name) / ACTIVATIONS.key
            wanted = asked.wanted(ACTIVATIONS.key)
            stored_teacher(folder, model, inputs.dataset[asked.rows], wanted)
        logits = self._copy('store_cut', 'store') / ACTIVATIONS.key / 'logits-00000.npy'
        logits.write_bytes(logits.read_bytes()[:-1])
        manifest = self._copy('store_garbage', 'store') / ACTIVATIONS.key / MANIFEST
        manifest.write_text('{"format": ')

    def runs(self):
        self._new('file').write_text('mine')
        foreign = self._new('foreign')
        foreign.mkdir()
        (foreign / 'thesis.tex').write_text('mine')
        for name, content in {
            'run_other': '{"version": 2, "name": "discover", "inputs": {"share": 0.5}}',
            'run_cut': '{"name": "disc',
            'run_list': '[]',
        }.items():
            self._new(name).mkdir()
            (self.files[name] / 'config.json').write_text(content)
        for name, content in {'results_cut': '{"data": ', 'results_list': '[]'}.items():
            self._new(name).mkdir()
            (self.files[name] / 'results.json').write_text(content)
        for name, content in {
            'grid': '--gate_noise=0.5',
            'grid_value': '# two\n--gate_noise=-1',
            'grid_nothing': '',
        }.items():
            self._new(name).write_text(content)
        self._new('golden').write_bytes(b'x' * 20)
        self._new('recipe_unknown').write_text('--steps=many\n')
        self._new('recipe_switch').write_text('--nolargest_batch=1\n')
        self._new('recipe_other').write_text('--workdir=runs/mine\n')
        orbax = self._copy('orbax')
        (orbax / 'parameters.json').write_text('{"embed.weight": 5}')

    def addresses(self):
        """Adds an address for each launcher that several processes can run."""
        with contextlib.ExitStack() as stack:  # all at once, or two would be the same
            for launcher in (
                *('discover', 'distill', 'evaluate', 'pipeline', 'compare_arms'),
                *('train_teacher', 'settle', 'twins', 'convert'),
            ):
                free = stack.enter_context(socket.create_server(('localhost', 0)))
                self.files[f'address_{launcher}'] = f'localhost:{free.getsockname()[1]}'
