"""The program of docs/checkpoints.md runs and prints what the page says."""

import re
from pathlib import Path

from cdjax.models import load_huggingface

ROOT = Path(__file__).parents[2]


def test_the_program_in_python(tmp_path, monkeypatch, capsys):
    (program,) = re.findall(
        r'```python\n(.*?)```', (ROOT / 'docs' / 'checkpoints.md').read_text(), flags=re.DOTALL
    )
    (said,) = re.findall(r'print\(.*\)\s+# (.*)', program)
    (tmp_path / 'cdjax').symlink_to(ROOT / 'cdjax')
    monkeypatch.chdir(tmp_path)
    exec(compile(program, 'checkpoints.md', 'exec'), {})
    assert capsys.readouterr().out == f'{said}\n'
    assert (
        load_huggingface('runs/smaller').config == load_huggingface('cdjax/assets/teacher').config
    )
