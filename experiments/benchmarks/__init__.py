"""The suites of `experiments.benchmark`, one module each, with `run(workdir, ...) -> dict`."""
