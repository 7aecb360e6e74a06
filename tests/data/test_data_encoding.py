import numpy as np
import pytest
from joining_tokenizer import joining_tokenizer

from cdjax.data import build_arithmetic_tokenizer
from cdjax.data.encoding import encode_examples, single_tokens, token_ids
from cdjax.errors import InputError


def test_bos_prompt_and_padding():
    tokenizer = build_arithmetic_tokenizer()
    encoding = encode_examples(tokenizer, ['1+2=', '1+2-3='], ['3', '0'])
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    ids = tokenizer.convert_tokens_to_ids
    assert encoding.tokens.tolist() == [
        [bos, *ids(['1', '+', '2', '=']), pad, pad],
        [bos, *ids(['1', '+', '2', '-', '3', '='])],
    ]
    assert encoding.lengths.tolist() == [5, 7]
    assert encoding.answers.T.tolist() == [ids(['3', '0'])]
    assert encoding.faults.tolist() == ['', '']
    assert encoding.tokens.dtype == encoding.lengths.dtype == encoding.answers.dtype == np.int32


def test_a_merge_across_the_boundary_is_a_fault():
    """With '=2' a token, '1+1=' is never followed by '2': the model would see another text."""
    encoding = encode_examples(joining_tokenizer('=', '2'), ['1+1=', '1+2='], ['2', '3'])
    assert encoding.faults.tolist() == ['the answer is another token after this prompt', '']


def test_a_bos_in_the_prompt_is_a_fault():
    tokenizer = build_arithmetic_tokenizer()
    encoding = encode_examples(tokenizer, ['<|begin_of_text|>1+2='], ['3'])
    assert encoding.faults.tolist() == ['the prompt has a BOS of its own']


def test_truncation_set_in_the_tokenizer_file_has_no_effect():
    tokenizer = build_arithmetic_tokenizer()
    expected = token_ids(tokenizer, ['1+2-3+4=', '1'])
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding()
    assert token_ids(tokenizer, ['1+2-3+4=', '1']) == expected


def test_an_unknown_character_is_seen():
    tokenizer = build_arithmetic_tokenizer()
    assert tokenizer('2×3=', add_special_tokens=False)['input_ids'].count(2) == 1
    assert single_tokens(tokenizer, ['×', '7']) == {'7': tokenizer.convert_tokens_to_ids('7')}
    encoding = encode_examples(tokenizer, ['2×3=', '2+3=', '2+3='], ['6', '5', '×'])
    assert encoding.faults.tolist() == [
        'the prompt has characters that the tokenizer cannot write',
        '',
        'the answer is not one token',
    ]


def test_a_tokenizer_without_bos():
    tokenizer = build_arithmetic_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(InputError, match='no BOS token'):
        encode_examples(tokenizer, ['1+1='], ['2'])
