"""A study of the smallest size: 137 problems, models of two layers with 32 and 16 neurons each.

The models are random and answer nothing right. What is tested with them is that the code does
what it says, not that a model learns.
"""

import functools
import pickle

import jax
import numpy as np

from cdjax.data import ArithmeticTask, build_arithmetic_tokenizer, split
from cdjax.models import LlamaConfig
from cdjax.models.parameters import abstract_model
from cdjax.parallel.mesh import make_mesh, parameter_shardings
from cdjax.run.checksums import tree_names

K, L, F, T = 3, 2, 32, 5

_COMPILED = []


@jax.monitoring.register_event_duration_secs_listener
def _note_compilation(event, _, **facts):
    if event == '/jax/core/compile/backend_compile_duration':
        _COMPILED.append(facts['fun_name'])


def compilations(function):
    """How often XLA has compiled a jitted function of this name so far.

    The size of a jitted function's own cache is no such count: on several devices it holds more
    than one entry for one program.
    """
    return sum(name in (function, f'jit({function})') for name in _COMPILED)


def hire_workers(monkeypatch, module):
    """Lets this process do what others would, jobs pickled; returns name → number of workers."""
    asked = {}

    def work_ahead(jobs, workers):
        for name, job in pickle.loads(pickle.dumps(dict(jobs))).items():
            job()
            asked[name] = workers

    monkeypatch.setattr(module, 'work_ahead', work_ahead)
    return asked


# 'a+b=' and 'a-b=' of digits: BOS and four tokens.
TASK = ArithmeticTask(operators=('+', '-'), operands=2, low=0, high=9)
MAX_NUMBER = 20


@functools.cache
def tokenizer():
    return build_arithmetic_tokenizer(MAX_NUMBER)


@functools.cache
def dataset():
    return TASK.encode(tokenizer())


@functools.cache
def rows():
    return split(dataset(), share=0.5, test=0.25, seed=0)


@functools.cache
def one_device():
    return make_mesh(devices=jax.devices()[:1])


@functools.cache
def teacher_config():
    return LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=16,
        intermediate_size=F,
        num_layers=L,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        max_length=64,
    )


def student_config():
    return teacher_config().half_width()


@functools.cache
def model(mesh=None, *, seed=0, student=False):
    return random_model(student_config() if student else teacher_config(), seed, mesh)


def random_model(config, seed=0, mesh=None):
    """A random model; its weights are large, so that neurons matter to its answers."""
    mesh = one_device() if mesh is None else mesh
    # By NumPy, for compiling the initialisation takes longer than all that is done with a model.
    rng = np.random.default_rng(seed)
    abstract = abstract_model(config)
    shardings = parameter_shardings(abstract, mesh)
    random = [
        np.float32(0.3) * rng.standard_normal(leaf.shape, np.float32) + np.float32('norm' in name)
        for name, leaf in zip(tree_names(abstract), jax.tree.leaves(abstract), strict=True)
    ]
    weights = jax.tree.unflatten(jax.tree.structure(abstract), random)
    put = lambda leaf, sharding: jax.make_array_from_callback(
        leaf.shape, sharding, leaf.__getitem__
    )
    return jax.tree.map(put, weights, shardings)
