import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_llama import SMALL, random_torch_llama

from cdjax.data import build_arithmetic_tokenizer
from cdjax.models import Edit, load_huggingface
from cdjax.models.generation import generate, generate_text
from cdjax.parallel.mesh import make_mesh

LENGTHS = np.array([3, 6, 1])
NEW = 8


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp('small')
    reference = random_torch_llama(dataclasses.replace(SMALL, num_layers=2))
    reference.save_pretrained(folder)
    return load_huggingface(folder), reference


@pytest.fixture(scope='module')
def prompts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, SMALL.vocab_size, (3, 6))
    return np.where(np.arange(6)[None] < LENGTHS[:, None], tokens, 0)


def torch_greedy(reference, prompt, steps, stop=()):
    """Greedy decoding without a cache, one row and one step at a time."""
    sequence = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            logits = reference(torch.tensor([sequence]), use_cache=False).logits[0, -1]
        sequence.append(int(logits.argmax()))
        if sequence[-1] in stop:
            break
    return sequence[len(prompt) :]


@pytest.fixture(scope='module')
def expected(pair, prompts):
    rows = zip(prompts, LENGTHS, strict=True)
    return [torch_greedy(pair[1], row[:n], NEW) for row, n in rows]


def test_greedy_tokens_of_prompts_of_several_lengths(pair, prompts, expected):
    tokens = generate(pair[0], prompts, LENGTHS, max_new_tokens=NEW)
    assert tokens.dtype == jnp.int32
    assert tokens.tolist() == expected
    assert len({token for row in expected for token in row}) > 5  # no trivial repetition


def test_the_same_tokens_from_a_sharded_model(pair, prompts, expected, tmp_path):
    pair[1].save_pretrained(tmp_path)
    model = load_huggingface(tmp_path, mesh=make_mesh(4, 2))
    assert generate(model, prompts, LENGTHS, max_new_tokens=NEW).tolist() == expected


def test_padding_does_not_matter(pair, prompts, expected):
    other = np.where(np.arange(6)[None] < LENGTHS[:, None], prompts, 17)
    assert generate(pair[0], other, LENGTHS, max_new_tokens=NEW).tolist() == expected


def test_rows_end_at_a_stop_token(pair, prompts, expected):
    stops = (expected[0][2], expected[1][4])
    tokens = generate(pair[0], prompts, LENGTHS, max_new_tokens=NEW, stop_tokens=stops)
    for row, prompt, length in zip(tokens.tolist(), prompts, LENGTHS, strict=True):
        answer = torch_greedy(pair[1], prompt[:length], NEW, stops)
        assert row == answer + [answer[-1]] * (NEW - len(answer))


def test_edits_are_in_force_at_every_step(pair, prompts):
    """A neuron mask and a mean for each row, which torch puts in at the input of down_proj."""
    model, reference = pair
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 2, (2, 3, SMALL.intermediate_size)).astype('f')
    fill = (1 - mask) * rng.normal(size=mask.shape).astype('f')
    edit = Edit(*(jnp.asarray(part)[:, :, None, :] for part in (mask, fill)))
    tokens = generate(model, prompts, LENGTHS, max_new_tokens=NEW, edits={'neurons': edit})
    for row, length in enumerate(LENGTHS):
        handles = [
            block.mlp.down_proj.register_forward_pre_hook(
                lambda _, args, scale=scale, shift=shift: (args[0] * scale + shift,)
            )
            for block, scale, shift in zip(
                reference.model.layers,
                torch.tensor(mask[:, row]),
                torch.tensor(fill[:, row]),
                strict=True,
            )
        ]
        assert tokens[row].tolist() == torch_greedy(reference, prompts[row, :length], NEW)
        for handle in handles:
            handle.remove()


def test_text_in_text_out(pair):
    """A tokenizer of 96 or fewer tokens: the answer's tokens are decoded, the padding is not."""
    model, reference = pair
    tokenizer = build_arithmetic_tokenizer(20)
    assert len(tokenizer) <= SMALL.vocab_size
    texts = ['3+4=', '12-5+1=']
    answers = generate_text(model, tokenizer, texts, max_new_tokens=4)
    for text, answer in zip(texts, answers, strict=True):
        tokens = torch_greedy(reference, tokenizer(text)['input_ids'], 4, (tokenizer.eos_token_id,))
        assert answer == tokenizer.decode(tokens, skip_special_tokens=True)


def test_mistakes_are_refused(pair, prompts):
    with pytest.raises(ValueError, match='max_new_tokens=0 must be at least 1'):
        generate(pair[0], prompts, LENGTHS, max_new_tokens=0)
    edit = Edit(scale=jnp.ones((1, 1, 6, 1)))
    with pytest.raises(ValueError, match=r'has shape \(1, 1, 6, 1\), which does not broadcast'):
        generate(pair[0], prompts, LENGTHS, max_new_tokens=1, edits={'neurons': edit})
    edit = Edit(scale=0, positions=(0,)).then(Edit(shift=1))
    with pytest.raises(ValueError, match="edit at 'neurons' is confined to some positions"):
        generate(pair[0], prompts, LENGTHS, max_new_tokens=1, edits={'neurons': edit})
