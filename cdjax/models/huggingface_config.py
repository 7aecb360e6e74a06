"""Translation of Hugging Face's `config.json` to the fields of `LlamaConfig` and back.

Two forms are in use. transformers 4.x writes `rope_theta`, `rope_scaling` and `torch_dtype`;
5.x writes `rope_parameters`, which holds theta, and `dtype`. Both are read, both are written.
A field that is not known to leave the computation alone is refused, because a model that
computes something else is worse than none.
"""

import math
from typing import Any

from cdjax.errors import InputError

# Hugging Face's name -> ours. All are required: transformers fills in silent defaults.
REQUIRED = {
    'vocab_size': 'vocab_size',
    'hidden_size': 'hidden_size',
    'intermediate_size': 'intermediate_size',
    'num_hidden_layers': 'num_layers',
    'num_attention_heads': 'num_heads',
    'rms_norm_eps': 'norm_eps',
    'max_position_embeddings': 'max_length',
}

# Fields that would change the computation, and the values at which they do not.
NEUTRAL_VALUES = {
    'model_type': ('llama',),
    'architectures': (['LlamaForCausalLM'],),
    'hidden_act': ('silu', 'swish'),
    'pretraining_tp': (1, 0),
    'partial_rotary_factor': (1, 1.0),
}

# Translated below, or without any influence on the logits of a causal language model.
READ_ELSEWHERE = frozenset(
    {'num_key_value_heads', 'head_dim', 'tie_word_embeddings'}
    | {'rope_theta', 'rope_scaling', 'rope_parameters'}
)
HARMLESS = frozenset(
    """
    _name_or_path name_or_path _model_name_or_path _commit_hash transformers_version auto_map
    torch_dtype dtype use_cache initializer_range attention_dropout hidden_dropout resid_pdrop
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id mask_token_id tokenizer_class
    output_attentions output_hidden_states return_dict use_return_dict torchscript prefix
    id2label label2id num_labels problem_type task_specific_params finetuning_task
    max_length max_new_tokens temperature top_p top_k do_sample chunk_size_feed_forward
    _attn_implementation _attn_implementation_autoset gradient_checkpointing
    is_llama_config transformers.js_config unsloth_version unsloth_fixed
    """.split()
)

SIZES = (*(name for name in REQUIRED if name != 'rms_norm_eps'), 'num_key_value_heads', 'head_dim')

ROPE_KEYS = frozenset({'rope_type', 'type', 'rope_theta', 'partial_rotary_factor'})
LLAMA3_ROPE_KEYS = {
    'factor': 'factor',
    'low_freq_factor': 'low_freq_factor',
    'high_freq_factor': 'high_freq_factor',
    'original_max_position_embeddings': 'original_length',
}


def read_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of `LlamaConfig` from the content of a `config.json` of either form.

    Args:
        fields: the parsed JSON.

    Returns:
        Values by field of `LlamaConfig`; `rope_scaling` is a dict of `RopeScaling` or None.

    Raises:
        InputError: a required field is absent, or a field asks for a computation that `Llama`
            does not do; all such fields are named.
    """
    if not any(name in fields for name in REQUIRED):
        raise InputError(
            f'this config.json describes no model, it has none of {", ".join(REQUIRED)}: name the '
            'folder of a checkpoint; in that of a run it is student/ or model/'
        )
    problems = _refused_fields(fields)
    values = {ours: fields.get(theirs) for theirs, ours in REQUIRED.items()}
    problems += [f'{name} is absent' for name in REQUIRED if fields.get(name) is None]
    problems += _wrong_values(fields)
    theta, scaling, rope_problems = _read_rope(fields)
    problems += rope_problems
    if problems:
        raise InputError(f'this config.json cannot be used: {"; ".join(problems)}')
    heads = values['num_heads']
    return values | {
        'num_kv_heads': fields.get('num_key_value_heads') or heads,
        'head_dim': fields.get('head_dim') or values['hidden_size'] // heads,
        'rope_theta': float(theta),
        'rope_scaling': scaling,
        'tie_embeddings': bool(fields.get('tie_word_embeddings', False)),
    }


def write_fields(values: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Returns the content of a `config.json` that transformers 4.x and 5.x read alike.

    Args:
        values: fields of `LlamaConfig`, as `read_fields` returns them.
        dtype: name of the dtype of the stored weights (`bfloat16`).
    """
    scaling = values['rope_scaling']
    rope = {'rope_type': 'default'}
    if scaling is not None:
        rope = {'rope_type': 'llama3'}
        rope |= {theirs: scaling[ours] for theirs, ours in LLAMA3_ROPE_KEYS.items()}
    return {
        'architectures': ['LlamaForCausalLM'],
        'model_type': 'llama',
        **{theirs: values[ours] for theirs, ours in REQUIRED.items()},
        'num_key_value_heads': values['num_kv_heads'],
        'head_dim': values['head_dim'],
        'hidden_act': 'silu',
        'attention_bias': False,
        'mlp_bias': False,
        'tie_word_embeddings': values['tie_embeddings'],
        'rope_theta': values['rope_theta'],
        'rope_scaling': rope if scaling is not None else None,
        'rope_parameters': {**rope, 'rope_theta': values['rope_theta']},
        'torch_dtype': dtype,
        'dtype': dtype,
    }


def _refused_fields(fields):
    """Names the fields that ask for something else than a plain Llama."""
    problems = []
    for name, value in fields.items():
        if name in REQUIRED or name in READ_ELSEWHERE or name in HARMLESS:
            continue
        if name in NEUTRAL_VALUES:
            allowed = NEUTRAL_VALUES[name]
            if value is not None and value not in allowed:
                problems.append(f'{name}={value!r} is not supported, only {allowed[0]!r}')
        elif not (value is None or value is False or value in ({}, [])):
            # Empty or false is the absence of a feature, whatever the feature is.
            problems.append(f'{name}={value!r} is not known to leave the computation unchanged')
    return problems


def _wrong_values(fields):
    """Names the values that are of another kind than they must be, such as a size in quotes."""
    problems = []
    numbers = {name: fields.get(name) for name in (*SIZES, 'rms_norm_eps', 'rope_theta')}
    for name in ('rope_scaling', 'rope_parameters'):
        rope = fields.get(name) or {}
        if not isinstance(rope, dict):
            problems.append(f'{name}={rope!r} is no object')
            continue
        numbers |= {f'{name}.{key}': rope.get(key) for key in ('rope_theta', *LLAMA3_ROPE_KEYS)}
    for name, value in numbers.items():
        kind = 'integer' if name in SIZES else 'number'
        is_number = isinstance(value, int if kind == 'integer' else (int, float))
        fits = is_number and 0 < value < math.inf and value is not True
        if value is not None and not fits:
            problems.append(f'{name}={value!r} is no positive {kind}')
    tied = fields.get('tie_word_embeddings')
    if not isinstance(tied, bool | None):
        problems.append(f'tie_word_embeddings={tied!r} is neither true nor false')
    return problems


def _read_rope(fields):
    """Returns theta, the scaling and the problems, from either form or from both if they agree."""
    old, new = (
        rope if isinstance(rope, dict) else {}
        for rope in (fields.get('rope_scaling'), fields.get('rope_parameters'))
    )
    problems = []
    named = {
        'rope_theta': fields.get('rope_theta'),
        'rope_parameters.rope_theta': new.get('rope_theta'),
        'rope_scaling.rope_theta': old.get('rope_theta'),
    }
    named = {name: theta for name, theta in named.items() if theta is not None}
    if not named:
        problems.append(
            'rope_theta is absent (Llama 3 has 500000.0): state it, as rope_theta or in '
            'rope_parameters'
        )
    elif any(theta != next(iter(named.values())) for theta in named.values()):
        problems.append(' but '.join(f'{name}={theta}' for name, theta in named.items()))
    scalings = []
    for name, rope in (('rope_scaling', old), ('rope_parameters', new)):
        if rope:
            scaling, found = _read_scaling(name, rope)
            scalings.append(scaling)
            problems += found
    if scalings and scalings[0] != scalings[-1]:
        problems.append('rope_scaling and rope_parameters disagree')
    return next(iter(named.values()), None), next(iter(scalings), None), problems


def _read_scaling(name, rope):
    kind = rope.get('rope_type') or rope.get('type') or 'default'
    known = ROPE_KEYS | (LLAMA3_ROPE_KEYS.keys() if kind == 'llama3' else set())
    problems = []
    if kind not in ('default', 'llama3'):
        return None, [f'{name} of type {kind!r} is not supported, only default and llama3']
    if rope.get('partial_rotary_factor') not in (None, 1, 1.0):
        problems.append(f'{name}.partial_rotary_factor={rope["partial_rotary_factor"]} is not 1')
    problems += [
        f'{name}.{key}={value!r} is unknown'
        for key, value in rope.items()
        if key not in known and value is not None
    ]
    if kind == 'default':
        return None, problems
    absent = [key for key in LLAMA3_ROPE_KEYS if rope.get(key) is None]
    if absent:
        return None, [*problems, f'{name} of type llama3 lacks {", ".join(absent)}']
    return {ours: rope[theirs] for theirs, ours in LLAMA3_ROPE_KEYS.items()}, problems
