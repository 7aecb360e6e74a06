"""Tells which launchers there are, and what each does."""

import ast
from pathlib import Path


def main() -> None:
    """Prints a line for each launcher: its name, and the first line of its help."""
    print('Launchers, each told by python -m experiments.NAME --help:')
    for path in sorted(Path(__file__).parent.glob('[a-z]*.py')):
        text = path.read_text()
        if 'launch.run(main' in text:
            what = (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]
            print(f'  {path.stem:<14}{what}')


if __name__ == '__main__':
    main()
