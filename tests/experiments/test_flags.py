"""A default stands once, in its dataclass: flags that are not given describe its own instance."""

import dataclasses
import functools
import runpy

import pytest
from absl import flags

from cdjax.data import ArithmeticTask
from cdjax.errors import InputError
from cdjax.losses import AnySizeWeights
from cdjax.models.conversion import Conversion
from cdjax.run.options import RunOptions
from cdjax.studies.arms import ArmsConfig
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.inputs import InputsConfig
from cdjax.studies.pipeline import PipelineConfig
from cdjax.training import distillation, language_model
from cdjax.training.discovery import DiscoveryConfig
from cdjax.training.distillation import DistillationConfig
from cdjax.training.language_model import LanguageModelConfig
from cdjax.training.objectives import OBJECTIVES, AnySize, FixedDensity
from experiments import flags as shared
from experiments.flags import grid

# Flags whose name is not that of the field: by group, field → flag.
RENAMED = {
    'discovery': {
        'temperature': 'gumbel_temperature',
        'seed': 'discovery_seed',
        'batch_size': 'discovery_batch_size',
        'microbatches': 'discovery_microbatches',
        'remat': 'discovery_remat',
        'optimizer.steps': 'discovery_steps',
        'optimizer.epsilon': 'discovery_epsilon',
        'encoding.layer': 'encode_layer',
        'encoding.positions': 'encode_positions',
    },
    'study': {'max_problems': 'evaluate_problems', 'ablations': 'ablation'},
    'arms': {'max_problems': 'arm_problems', 'circuits': 'arm_circuits'},
}
GROUPS = {
    'task': (shared.define_task_flags, ArithmeticTask()),
    'inputs': (
        lambda: (shared.define_task_flags(), shared.define_checkpoint_flags()),
        InputsConfig(),
    ),
    'discovery': (shared.define_discovery_flags, DiscoveryConfig()),
    'distillation': (shared.define_distillation_flags, DistillationConfig()),
    'teacher': (
        lambda: shared.define_training_flags(LanguageModelConfig(), language_model.FROM_NOTHING),
        LanguageModelConfig(),
    ),
    'arms': (
        lambda: (shared.define_distillation_flags(), shared.define_arms_flags()),
        ArmsConfig(),
    ),
    'study': (shared.define_study_flags, CircuitStudyConfig()),
    'run': (lambda: shared.define_run_flags('runs/test'), RunOptions()),
}
# Fields that several flags make up.
COMPOSED = {('arms', 'distillation'), ('inputs', 'task')}
BUILDERS = {
    'task': lambda: shared.problems_from_flags().task,
    'inputs': shared.inputs_from_flags,
    'discovery': shared.discovery_from_flags,
    'distillation': shared.distillation_from_flags,
    'teacher': lambda: LanguageModelConfig(**shared.training_from_flags()),
    'arms': shared.arms_from_flags,
    'study': shared.study_from_flags,
    'run': shared.run_options,
}


@pytest.fixture
def registry(monkeypatch):
    """A registry of flags of its own, for what is defined during a test."""
    values = flags.FlagValues()
    # The functions of absl bind the global registry as the default of an argument.
    for name in ('string', 'integer', 'float', 'bool', 'list', 'enum'):
        bound = functools.partial(getattr(flags, f'DEFINE_{name}'), flag_values=values)
        monkeypatch.setattr(flags, f'DEFINE_{name}', bound)
    validate = functools.partial(flags.register_validator, flag_values=values)
    monkeypatch.setattr(flags, 'register_validator', validate)
    return values


@pytest.fixture
def defined(registry, monkeypatch):
    """Defines a group of flags, and parses a command line."""
    from experiments.flags import discovery, distillation, given, inputs, run, study

    def define(group, *command):
        for module in (discovery, distillation, given, inputs, run, study):
            monkeypatch.setattr(module, 'FLAGS', registry)
        GROUPS[group][0]()
        registry(['launcher', *command])
        return registry

    return define


def leaves(config, prefix=''):
    """Yields the name and the value of each field, those of an optimizer and an encoding too."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ('optimizer', 'encoding'):
            yield from leaves(value, f'{field.name}.')
        else:
            yield prefix + field.name, getattr(value, 'key', value)


def plain(value):
    """Returns a value as a flag has it: lists of text, and an empty one for None."""
    return [str(part) for part in value] or None if isinstance(value, list | tuple) else value


@pytest.mark.parametrize('group', GROUPS)
def test_a_flag_has_the_default_of_its_field(defined, group):
    values, default = defined(group), GROUPS[group][1]
    mirrored = 0
    for field, value in leaves(default):
        name = RENAMED.get(group, {}).get(field, field.rpartition('.')[2])
        if name in values and (group, field) not in COMPOSED:
            mirrored += 1
            assert plain(values[name].default) == plain(value), (name, field)
    assert mirrored >= 4, group


@pytest.mark.parametrize('group', GROUPS)
def test_no_flags_describe_the_defaults(defined, group):
    defined(group)
    described, default = BUILDERS[group](), GROUPS[group][1]
    assert described == default


def test_the_defaults_that_the_recipes_and_the_documents_tell():
    discovery = DiscoveryConfig()
    density = discovery.objective.density
    assert (density, discovery.batch_size, discovery.num_classes) == (0.05, 256, 4)
    assert dataclasses.astuple(discovery.optimizer) == (700, 0.1, 20, 0.0, 1.0, 1e-8)
    nothing = DistillationConfig().suited_to(pretrained=False)
    assert nothing.batch_size == 128
    assert dataclasses.astuple(nothing.optimizer) == (1000, 2e-3, 100, 1.0, 1.0, 1e-8)
    assert PipelineConfig().arms.starts == ('nothing',)


def test_every_option_of_an_objective_has_a_flag():
    from experiments.flags.discovery import OBJECTIVE_FLAGS

    fields = {
        field.name
        for objective in OBJECTIVES.values()
        for field in dataclasses.fields(objective)
        if field.name not in ('key', 'weights')
    }
    assert fields == set(OBJECTIVE_FLAGS.values())


def test_flags_of_an_objective(defined):
    defined(
        'discovery',
        '--specific_part=0.3',
        '--smallest_size=0.02',
        '--loss_weights=selectivity=1,completeness=.5',
    )
    config = shared.discovery_from_flags()
    weights = AnySizeWeights(completeness=0.5, selectivity=1.0)
    assert config.objective == AnySize(smallest=0.02, specific=0.3, weights=weights)


def test_another_objective_brings_its_own_learning_rate(defined):
    defined('discovery', '--objective=causal', '--gate=hard_concrete', '--per_layer')
    config = shared.discovery_from_flags()
    assert config.objective == FixedDensity(gate='hard_concrete', per_layer=True)
    assert config.optimizer.learning_rate == 2e-2


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        (['--cosine'], 'cosine=True is no option of objective=any_size: .*objective=published'),
        (
            ['--objective=published', '--gate_noise=1'],
            r'gate_noise=1\.0 is no option of objective=published: .*objective=any_size',
        ),
        (['--loss_weights=overlap=1'], "'overlap' is no term of the any_size objective"),
        (['--loss_weights=authors'], 'write TERM=NUMBER'),
    ],
)
def test_flags_of_another_objective_are_refused(defined, command, message):
    defined('discovery', *command)
    with pytest.raises(InputError, match=message):
        shared.discovery_from_flags()


@pytest.mark.parametrize('module', [distillation, language_model])
def test_what_is_given_wins_over_what_suits_the_start(defined, module):
    group = 'distillation' if module is distillation else 'teacher'
    defined(group, '--weight_decay=0.5', '--steps=7')
    config = BUILDERS[group]()
    for pretrained, rate in ((False, 2e-3), (True, 2e-5)):
        optimizer = config.suited_to(pretrained=pretrained).optimizer
        assert (optimizer.steps, optimizer.weight_decay) == (7, 0.5)
        assert optimizer.learning_rate == rate


def test_a_conversion(registry):
    runpy.run_module('experiments.convert')  # as an import, which defines its flags
    default = Conversion('source', 'target')
    for name in ('to', 'dtype', 'check', 'golden', 'save_golden'):
        assert registry[name].default == getattr(default, name), name
    assert registry['max_shard_gb'].default * 1e9 == default.max_shard_bytes


def test_a_grid_is_in_the_words_of_flags(defined, registry, monkeypatch, tmp_path):
    defined('discovery')
    monkeypatch.setattr(grid, 'FLAGS', registry)
    path = tmp_path / 'grid'
    path.write_text('# a comment\n\n--gate_noise=0.5 --loss_weights=usage=0.1\n--num_classes=2\n')
    (first, noisy), (second, two) = grid.read_grid(str(path))
    assert (first, second) == ('--gate_noise=0.5 --loss_weights=usage=0.1', '--num_classes=2')
    assert (noisy.objective.noise, noisy.objective.weights.usage) == (0.5, 0.1)
    assert (two.num_classes, two.objective) == (2, AnySize())  # nothing is left of the line before
    for line, said in (
        (
            '--teacher=x',
            "line 1: '--teacher=x' may not stand in a grid, .* the search",
        ),
        ('gate_noise', "'gate_noise': write"),
        ('--gate_noise=loud', 'line 1: '),
        ('--gate_noise=-1', 'noise=-1'),
    ):
        path.write_text(line)
        with pytest.raises(InputError, match=said):
            grid.read_grid(str(path))
    with pytest.raises(InputError, match='cannot be read'):
        grid.read_grid(str(tmp_path / 'none'))
