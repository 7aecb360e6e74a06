"""Names of machines, and where their compilers come from."""

import pytest

from cdjax.errors import InputError
from cdjax.parallel.hardware import PEAK_FLOPS
from cdjax.planning.targets import CHIPS, compiler_environment, compiler_packages, parse_target


@pytest.mark.parametrize(
    ('name', 'platform', 'devices'),
    [
        ('v5e:4x4', 'tpu', 16),
        ('v5e:1x1', 'tpu', 1),
        ('v6e:16x16', 'tpu', 256),
        ('v5p:2x2x4', 'tpu', 16),
        ('h200x8', 'cuda', 8),
        ('h100x1', 'cuda', 1),
        ('cpu', 'cpu', 1),
        ('cpu:8', 'cpu', 8),
    ],
)
def test_targets(name, platform, devices):
    target = parse_target(name)
    assert (target.platform, target.num_devices) == (platform, devices)
    if platform != 'cpu':
        assert PEAK_FLOPS[target.chip.kind] == target.chip.peak


@pytest.mark.parametrize(
    'name', ['', 'v5e', 'v5e:4', 'v5e:4x4x4', 'v5p:4x4', 'v7:4x4', 'v5e:0x4', 'h200', 'h200x9']
)
def test_no_target(name):
    with pytest.raises(InputError, match='target=') as error:
        parse_target(name)
    assert 'v5e:4x4' in str(error.value) or 'v5p:2x2x4' in str(error.value)
    assert '\n' not in str(error.value)


def test_memory_is_below_that_of_the_data_sheet():
    sheet = {'v5e': 16, 'v5p': 96, 'v6e': 32, 'h100': 80e9 / 2**30 * 1.08, 'h200': 141}
    for name, chip in CHIPS.items():
        assert 0.9 * sheet[name] < chip.memory / 2**30 <= sheet[name]


def test_an_absent_compiler_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError, match=r'--target \.compilers .libtpu==') as error:
        compiler_environment(parse_target('v5e:4x4'))
    assert '\n' not in str(error.value)
    with pytest.raises(InputError, match='jax-cuda12-plugin=='):
        compiler_environment(parse_target('h200x8'))
    assert 'TPU_WORKER_HOSTNAMES' not in compiler_environment(parse_target('cpu'))


def test_a_compiler_in_its_folder_is_seen_by_the_compiling_process_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', 'mine')
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    (tmp_path / '.compilers/libtpu').mkdir(parents=True)
    environment = compiler_environment(parse_target('v5e:4x4'))
    assert environment['PYTHONPATH'].split(':') == [str(tmp_path / '.compilers'), 'mine']
    assert environment['JAX_PLATFORMS'] == 'cpu'
    assert environment['TPU_SKIP_MDS_QUERY'] == '1'
    assert 'XLA_FLAGS' not in environment
    # Triton may find no tiles for a product where there is no GPU to try them on.
    (tmp_path / '.compilers/jax_cuda12_plugin').mkdir(parents=True)
    monkeypatch.setenv('XLA_FLAGS', '--mine')
    environment = compiler_environment(parse_target('h200x1'))
    assert environment['XLA_FLAGS'] == '--mine --xla_gpu_enable_triton_gemm=false'


def test_the_compilers_are_those_that_jax_pins():
    (libtpu,) = compiler_packages(parse_target('v5e:4x4'))
    assert libtpu.startswith('libtpu==')
    assert len(compiler_packages(parse_target('h200x8'))) == 2
    assert compiler_packages(parse_target('cpu')) == []
