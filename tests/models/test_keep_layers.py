"""A student that is cut from a checkpoint: the layers that are kept, and nothing else changed."""

import jax
import numpy as np
import pytest
import toy_study as toy
import transformers

from cdjax.data import save_tokenizer
from cdjax.errors import InputError
from cdjax.models import load_huggingface, save_huggingface
from cdjax.models.conversion import Conversion, convert, keep_layers


def test_a_model_of_one_of_its_layers(tmp_path):
    save_tokenizer(toy.tokenizer(), tmp_path / 'tokenizer')
    save_huggingface(toy.model(), tmp_path / 'whole', tokenizer_from=tmp_path / 'tokenizer')
    source, target = str(tmp_path / 'whole'), tmp_path / 'cut'
    convert(Conversion(source, str(target), to='huggingface', keep_layers=(1,)), toy.one_device())
    cut = load_huggingface(target)
    assert cut.config.num_layers == 1
    for kept, whole in zip(
        jax.tree.leaves(cut.layers), jax.tree.leaves(toy.model().layers), strict=True
    ):
        np.testing.assert_array_equal(kept, whole[1:])
    np.testing.assert_array_equal(cut.embed.weight[...], toy.model().embed.weight[...])
    theirs = transformers.LlamaForCausalLM.from_pretrained(target)
    assert len(theirs.model.layers) == 1
    assert toy.model().config.num_layers == 2, 'the whole one is as it was'


@pytest.mark.parametrize('layers', [(), (1, 0), (0, 0), (2,), (-1, 0)])
def test_layers_that_cannot_be_kept(layers):
    with pytest.raises(InputError, match=r'keep_layers=.*: name layers of 0 to 1, each once'):
        keep_layers(toy.model(), layers)
