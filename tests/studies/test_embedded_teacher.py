"""The teacher that ships with the package is an ordinary checkpoint, and knows its task."""

import jax
import numpy as np
import pytest
import torch
import toy_study as toy
import transformers

from cdjax.data import ArithmeticTask
from cdjax.data.training_data import read_training_data
from cdjax.inference.predictions import predict
from cdjax.studies.inputs import EMBEDDED_TEACHER, Inputs, InputsConfig

pytestmark = pytest.mark.optimised


@pytest.fixture(scope='module')
def inputs():
    return Inputs(InputsConfig(ArithmeticTask()))


@pytest.fixture(scope='module')
def teacher(inputs):
    return inputs.load_teacher(toy.one_device())


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in EMBEDDED_TEACHER.iterdir()) <= 5e6


def test_it_says_what_it_was_trained_on(inputs):
    """As experiments/recipes/teacher.flags has it: the default problems and the default split."""
    (training,) = read_training_data(EMBEDDED_TEACHER)
    assert training.data == inputs.dataset.hash
    np.testing.assert_array_equal(training.rows(inputs.dataset), inputs.split.train)


def test_transformers_loads_it_with_equal_logits(inputs, teacher):
    tokenizer = transformers.AutoTokenizer.from_pretrained(EMBEDDED_TEACHER)
    model = transformers.LlamaForCausalLM.from_pretrained(EMBEDDED_TEACHER)
    tokens = np.array(tokenizer(['7+8-9=', '19-3+19=', '0+0+0=']).input_ids)
    assert tokens.shape == (3, 7)
    assert (tokens[:, 0] == tokenizer.bos_token_id).all()
    assert (tokens[:, 1:] != tokenizer.bos_token_id).all()
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    logits = np.asarray(jax.jit(lambda m, t: m(t)[0])(teacher, tokens))
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    answers = tokenizer.convert_ids_to_tokens(logits[:, -1].argmax(-1))
    assert answers == ['6', '35', '0']


def test_it_is_right_on_unseen_forms(inputs, teacher):
    unseen = inputs.dataset[inputs.split.test]
    assert not set(unseen.forms) & set(inputs.dataset.forms[inputs.split.train])
    assert len(unseen) > 3000
    assert predict(teacher, unseen, mesh=toy.one_device()).accuracy >= 0.995
