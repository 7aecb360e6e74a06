"""Eight simulated devices, strict promotion, and nothing that is compiled twice in one run."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    # Of this run alone. Its workers, and the processes that tests start, inherit the name.
    _compiled = tempfile.mkdtemp(prefix='cdjax_compiled_')
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
# Threads of torch and of BLAS wait for each other in a loop, at the cost of the other worker.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# A program that does not say where in the source each operation is from is lowered sooner.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')
# XLA's older code for what it fuses is compiled in a third of the time (no flag chooses it after
# 0.10), and a program that is not cut up for several threads, which two workers have no use for, in
# a tenth less. A flag that XLA does not know ends the process.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
    _flags = '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
    os.environ['XLA_FLAGS'] = f'{_flags} {os.environ.get("XLA_FLAGS", "")}'

import costs
import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Half a minute and more each, but few tests: by their number they would come last.
LONGEST = {
    *('test_faults_campaign', 'test_docs_runs', 'test_plan', 'test_bad_inputs', 'test_extending'),
    *('test_discovery', 'test_distillation', 'test_pipeline', 'test_table_of_arms'),
    *('test_provenance', 'test_compiled_programs', 'test_docs_notebooks', 'test_buckets'),
}


def pytest_addoption(parser):
    parser.addoption('--costs', help='File that gets what each test costs, see costs.py.')


def pytest_configure(config):
    if config.getoption('costs'):
        config.pluginmanager.register(costs.Costs(config.getoption('costs')))


def pytest_collection_modifyitems(items):
    """Begins with the files that take longest, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish():
    """Looks for garbage seldom: a trace makes many objects, and hardly any that are in circles."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope='module', autouse=True)
def compilation(request):
    """Compiles in half the time what then runs slower, but in modules marked `optimised`.

    Those compute for long, or look at what the compiler makes of a program; the older code for
    what is fused, a choice of the whole process, is theirs too. What a module has compiled goes
    with it: other files find it on disk, and the memory is theirs.
    """
    optimised = request.node.get_closest_marker('optimised') is not None
    jax.config.update('jax_disable_most_optimizations', not optimised)
    yield
    jax.clear_caches()


@pytest.fixture(scope='module')
def one_step_a_dispatch():
    """Gives a step one batch, as a large model's, where a test looks at what it is given."""
    from cdjax.training import step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, 'SMALL_STEP', 0.0)
        yield
