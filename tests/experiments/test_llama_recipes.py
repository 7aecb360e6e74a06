"""The recipes for Llama run, and are planned for, at shapes that a test can afford."""

import json
import re

import pytest
from launchers import run_in_turn

EIGHT, ONE = 'discover_llama31_8b', 'discover_llama32_1b'
# Llama 3's heads and RoPE scaling in one layer of many neurons, with its vocabulary of numbers.
SHAPE = {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'vocab_size': 1024,
    'hidden_size': 32,
    'intermediate_size': 1024,
    'num_hidden_layers': 1,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 8,
    'rms_norm_eps': 1e-5,
    'rope_theta': 500000.0,
    'rope_scaling': {
        'rope_type': 'llama3',
        'factor': 8.0,
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original_max_position_embeddings': 8192,
    },
    'max_position_embeddings': 131072,
    'hidden_act': 'silu',
    'tie_word_embeddings': False,
    'torch_dtype': 'bfloat16',
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('recipes')
    shape = folder / 'shape'
    shape.mkdir()
    (shape / 'config.json').write_text(json.dumps(SHAPE))
    small = ['--num_problems=120', '--discovery_batch_size=16', f'--teacher={shape}']
    run = [*small, '--discovery_steps=2', '--random_weights', '--check_gradients=False']
    run.append('--compilation_cache=')  # the programs of all tests are kept elsewhere
    recipe = lambda name: f'experiments/recipes/{name}.flags'
    plan = [
        '--job=discover',
        '--target=cpu:2',
        '--fsdp=2',
        '--nolargest_batch',
        f'--output={folder}/plan.json',
    ]
    commands = {
        '8b': ['discover', f'--flagfile={recipe(EIGHT)}', *run, f'--workdir={folder}/run'],
        '1b': ['discover', f'--flagfile={recipe(ONE)}', *run, '--only_check_args'],
        'plan': ['plan', f'--recipe={recipe(EIGHT)}', *small, *plan],
    }
    streams = folder / 'streams'
    streams.mkdir()
    return folder, run_in_turn(commands, streams)


def test_a_recipe_runs_with_random_weights(outcomes):
    folder, ended = outcomes
    assert ended['1b'].code == 0, ended['1b'].err
    assert ended['8b'].code == 0, ended['8b'].err
    assert re.search(r'teacher: 4 circuits of 20 neurons \(2\.0%\)', ended['8b'].out)
    config = json.loads((folder / 'run' / 'config.json').read_text())
    assert config['inputs']['task']['operands'] == 3
    assert config['inputs']['only_correct']
    assert config['discovery']['remat'] == 'full'


def test_a_recipe_is_planned_for(outcomes):
    folder, ended = outcomes
    assert ended['plan'].code == 0, ended['plan'].err
    plan = json.loads((folder / 'plan.json').read_text())
    assert plan['fits']
    # The remainder of the recipe: three operands, bfloat16, four classes.
    assert plan['job']['length'] == 7
    assert plan['job']['teacher_dtype'] == 'bfloat16'
    assert plan['job']['config']['num_classes'] == 4
    assert plan['store_bytes'] > 0
