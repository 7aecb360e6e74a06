import copy
import dataclasses

import jax
import pytest
import transformers

from cdjax.errors import InputError
from cdjax.models import LlamaConfig, RopeScaling

# The config.json of Llama 3.2 1B as published (transformers 4.45).
LLAMA32_1B = {
    'architectures': ['LlamaForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 128000,
    'eos_token_id': 128001,
    'head_dim': 64,
    'hidden_act': 'silu',
    'hidden_size': 2048,
    'initializer_range': 0.02,
    'intermediate_size': 8192,
    'max_position_embeddings': 131072,
    'mlp_bias': False,
    'model_type': 'llama',
    'num_attention_heads': 32,
    'num_hidden_layers': 16,
    'num_key_value_heads': 8,
    'pretraining_tp': 1,
    'rms_norm_eps': 1e-05,
    'rope_scaling': {
        'factor': 32.0,
        'high_freq_factor': 4.0,
        'low_freq_factor': 1.0,
        'original_max_position_embeddings': 8192,
        'rope_type': 'llama3',
    },
    'rope_theta': 500000.0,
    'tie_word_embeddings': True,
    'torch_dtype': 'bfloat16',
    'transformers_version': '4.45.0.dev0',
    'use_cache': True,
    'vocab_size': 128256,
}
PRESETS = {
    'llama3_8b': LlamaConfig.llama3_8b(),
    'llama31_8b': LlamaConfig.llama31_8b(),
    'llama32_1b': LlamaConfig.llama32_1b(),
    'llama32_3b': LlamaConfig.llama32_3b(),
    'llama3_70b': LlamaConfig.llama3_70b(),
}


def changed(**fields):
    return LLAMA32_1B | fields


def without(*names):
    return {name: value for name, value in LLAMA32_1B.items() if name not in names}


def new_form():
    """The same in the form of transformers 5, by transformers itself."""
    # from_dict writes theta into the dict of the scaling that it is given.
    return transformers.LlamaConfig.from_dict(copy.deepcopy(LLAMA32_1B)).to_dict()


def test_published_config_in_both_forms():
    assert LlamaConfig.from_huggingface(LLAMA32_1B) == LlamaConfig.llama32_1b()
    fields = new_form()
    assert 'rope_theta' not in fields
    assert 'rope_parameters' in fields
    assert LlamaConfig.from_huggingface(fields) == LlamaConfig.llama32_1b()


@pytest.mark.parametrize('preset', PRESETS)
def test_what_is_written_is_read_alike_by_us_and_by_transformers(preset):
    config = PRESETS[preset]
    fields = config.to_huggingface('bfloat16')
    assert LlamaConfig.from_huggingface(fields) == config
    theirs = transformers.LlamaConfig.from_dict(copy.deepcopy(fields))
    assert LlamaConfig.from_huggingface(theirs.to_dict()) == config
    rope = theirs.rope_parameters
    assert rope['rope_theta'] == 500000.0
    assert rope['rope_type'] == ('default' if config.rope_scaling is None else 'llama3')
    # What transformers 4 looks at.
    assert fields['rope_theta'] == 500000.0
    assert fields['torch_dtype'] == 'bfloat16'
    if config.rope_scaling is None:
        assert fields['rope_scaling'] is None
    else:
        assert fields['rope_scaling']['factor'] == config.rope_scaling.factor == rope['factor']
        assert fields['rope_scaling']['original_max_position_embeddings'] == 8192


def test_fields_that_old_configs_leave_out_are_derived():
    config = LlamaConfig.from_huggingface(
        without('num_key_value_heads', 'head_dim', 'tie_word_embeddings', 'rope_scaling')
    )
    assert (config.num_kv_heads, config.head_dim) == (32, 64)
    assert not config.tie_embeddings
    assert config.rope_scaling is None


def test_old_name_of_the_rope_type():
    scaling = {**LLAMA32_1B['rope_scaling'], 'type': 'llama3'}
    del scaling['rope_type']
    assert LlamaConfig.from_huggingface(changed(rope_scaling=scaling)).rope_scaling == RopeScaling(
        32.0
    )
    plain = LlamaConfig.from_huggingface(changed(rope_scaling={'type': 'default'}))
    assert plain.rope_scaling is None


def test_theta_that_is_nowhere_is_an_error():
    with pytest.raises(InputError, match=r'rope_theta is absent \(Llama 3 has 500000'):
        LlamaConfig.from_huggingface(without('rope_theta'))
    fields = new_form()
    del fields['rope_parameters']['rope_theta']
    with pytest.raises(InputError, match='rope_theta is absent'):
        LlamaConfig.from_huggingface(fields)


@pytest.mark.parametrize(
    'name',
    [
        *('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers'),
        *('num_attention_heads', 'rms_norm_eps', 'max_position_embeddings'),
    ],
)
def test_required_fields(name):
    with pytest.raises(InputError, match=f'{name} is absent'):
        LlamaConfig.from_huggingface(without(name))


def test_the_two_forms_must_agree():
    rope = {**LLAMA32_1B['rope_scaling'], 'rope_theta': 10000.0}
    with pytest.raises(InputError, match=r'rope_theta=500000\.0 but rope_parameters'):
        LlamaConfig.from_huggingface(changed(rope_parameters=rope))
    rope = {**LLAMA32_1B['rope_scaling'], 'rope_theta': 500000.0, 'factor': 8.0}
    with pytest.raises(InputError, match='rope_scaling and rope_parameters disagree'):
        LlamaConfig.from_huggingface(changed(rope_parameters=rope))


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('attention_bias', True),
        ('mlp_bias', True),
        ('hidden_act', 'gelu'),
        ('model_type', 'mistral'),
        ('architectures', ['LlamaForSequenceClassification']),
        ('sliding_window', 4096),
        ('pretraining_tp', 2),
        ('partial_rotary_factor', 0.5),
        ('quantization_config', {'quant_method': 'gptq'}),
        ('rope_interleaved', True),
        ('attn_logit_softcapping', 50.0),
        ('layer_types', ['full_attention', 'sliding_attention']),
        ('residual_multiplier', 0.22),
        ('a_field_of_the_future', 1),
    ],
)
def test_fields_that_change_the_computation_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f'{name}='):
        LlamaConfig.from_huggingface(changed(**{name: value}))


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('sliding_window', None),
        ('rope_interleaved', False),
        ('quantization_config', None),
        ('is_llama_config', True),
        ('transformers.js_config', {'dtype': 'q4'}),
        ('pad_token_id', 128004),
        ('eos_token_id', [128001, 128008, 128009]),
        ('pruned_heads', {}),
        ('hidden_act', 'silu'),
    ],
)
def test_fields_without_influence_are_accepted(name, value):
    config = LlamaConfig.from_huggingface(changed(**{name: value}))
    assert config == LlamaConfig.llama32_1b()


@pytest.mark.parametrize(
    ('rope', 'complaint'),
    [
        ({'rope_type': 'linear', 'factor': 2.0}, "of type 'linear' is not supported"),
        ({'type': 'dynamic', 'factor': 2.0}, "of type 'dynamic' is not supported"),
        ({'rope_type': 'yarn', 'factor': 2.0}, "of type 'yarn' is not supported"),
        ({'rope_type': 'llama3', 'factor': 8.0}, 'lacks low_freq_factor, high_freq_factor'),
        ({'rope_type': 'default', 'factor': 8.0}, r'rope_scaling\.factor=8\.0 is unknown'),
        ({'rope_type': 'default', 'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5'),
    ],
)
def test_other_ropes_are_refused(rope, complaint):
    with pytest.raises(InputError, match=complaint):
        LlamaConfig.from_huggingface(changed(rope_scaling=rope))


@pytest.mark.parametrize(
    ('change', 'complaint'),
    [
        ({'hidden_size': '2048'}, "hidden_size='2048' is no positive integer"),
        ({'num_hidden_layers': 16.0}, r'num_hidden_layers=16\.0 is no positive integer'),
        ({'vocab_size': True}, 'vocab_size=True is no positive integer'),
        ({'num_key_value_heads': -8}, 'num_key_value_heads=-8 is no positive integer'),
        ({'rms_norm_eps': '1e-5'}, "rms_norm_eps='1e-5' is no positive number"),
        ({'rope_theta': [500000.0]}, r'rope_theta=\[500000\.0\] is no positive number'),
        ({'rope_theta': -1.0}, r'rope_theta=-1\.0 is no positive number'),
        ({'rope_scaling': 'llama3'}, "rope_scaling='llama3' is no object"),
        (
            {'rope_scaling': {**LLAMA32_1B['rope_scaling'], 'factor': '32'}},
            r"rope_scaling\.factor='32' is no positive number",
        ),
        ({'tie_word_embeddings': 'no'}, "tie_word_embeddings='no' is neither true nor false"),
    ],
)
def test_values_of_the_wrong_kind_are_named(change, complaint):
    with pytest.raises(InputError, match=complaint):
        LlamaConfig.from_huggingface(changed(**change))
    assert LlamaConfig.from_huggingface(changed(rope_theta=500000)) == LlamaConfig.llama32_1b()


def test_all_problems_are_named_at_once():
    with pytest.raises(InputError) as caught:
        LlamaConfig.from_huggingface({**without('rope_theta', 'vocab_size'), 'mlp_bias': True})
    message = str(caught.value)
    assert '\n' not in message
    for part in ('rope_theta is absent', 'vocab_size is absent', 'mlp_bias=True'):
        assert part in message


def test_the_config_is_a_hashable_value():
    config = LlamaConfig.llama31_8b()
    assert hash(config) == hash(dataclasses.replace(config))
    assert jax.tree.leaves(config) == [config]
