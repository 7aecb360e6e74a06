import jax
import numpy as np
import pytest
import toy_study as toy

from cdjax.data.text import read_text
from cdjax.errors import InputError
from cdjax.inference.perplexity import perplexity


def test_a_text_is_cut_into_rows_behind_bos(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text('1+2=3 4-1=3 ')
    text = read_text(path, toy.tokenizer(), 6)
    tokenizer = toy.tokenizer()
    ids = tokenizer('1+2=3 4-1=3 ', add_special_tokens=False)['input_ids']
    assert text.lengths.tolist() == [6, 6, 3]
    assert (text.tokens[:, 0] == tokenizer.bos_token_id).all()
    read = [row[1:length] for row, length in zip(text.tokens, text.lengths, strict=True)]
    assert np.concatenate(read).tolist() == ids


def test_perplexity_is_that_of_each_row_by_itself(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text('1+2=3 4-1=3 ')
    text, model = read_text(path, toy.tokenizer(), 6), toy.model()
    logits_of, losses = jax.jit(lambda tokens: model(tokens, logits_at=None)[0]), []
    for row, length in zip(text.tokens, text.lengths, strict=True):
        logits = np.asarray(logits_of(row[None, :length])[0], np.float64)
        for at in range(length - 1):
            p = np.exp(logits[at]) / np.exp(logits[at]).sum()
            losses.append(-np.log(p[row[at + 1]]))
    assert len(losses) == 12
    found = perplexity(model, text, mesh=toy.one_device())
    assert found == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'cannot be read'),
        (b'', 'holds no text'),
        (b'\xff\xfe', 'cannot be read'),
        (b'once upon a time', 'the tokenizer in use has no tokens'),
    ],
)
def test_texts_that_tell_nothing(tmp_path, content, message):
    path = tmp_path / 'text.txt'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(path, toy.tokenizer(), 6)
