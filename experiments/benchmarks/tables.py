"""The results of the suites as Markdown, for `docs/performance.md`."""

from typing import Any

from cdjax.planning.targets import GIB


def to_markdown(results: dict[str, Any]) -> str:
    """Returns a section for each suite: the machine, times and ratios, or curves."""
    return '\n'.join(_section(name, found) for name, found in results.items())


def _section(name, found):
    lines = [f'### {name}', '']
    if 'machine' in found:
        m = found['machine']
        lines += [
            f'Limits of this {m["device"]} on {m["cores"]} core(s), in the same run: '
            f'{_products(m)}, {m["bytes_per_second"] / 1e9:.0f} GB/s in copies.',
            '',
        ]
    if found.get('absent'):
        lines += [f'Not installed: {", ".join(found["absent"])}.', '']
    if 'curves' in found:
        lines += ['| grows | sizes | CPU seconds | exponent | why |', '|---|---|---|---|---|']
        lines += [_curve(*curve) for curve in found['curves'].items()]
    elif 'programs' in found:
        lines += [
            '| program | ms | TFLOP | MFU | of the limit | GiB used | planned | used / planned |',
            '|---|---|---|---|---|---|---|---|',
        ]
        lines += [_program(*program) for program in found['programs'].items()]
        lines += ['', 'Share of the busy time by kernel:', '']
        lines += [_kernels(*program) for program in found['programs'].items()]
    elif 'cases' in found:
        lines += [
            '| case | program | seconds | CPU s | over the first (low to high) | by CPU s |',
            '|---|---|---|---|---|---|',
        ]
        for case, result in found['cases'].items():
            lines += [_row(case, program, result) for program in result['seconds']]
    else:
        lines += ['| figure | value |', '|---|---|']
        lines += [f'| {key} | {value} |' for key, value in found.items()]
    return '\n'.join([*lines, ''])


def _products(m):
    if m['device'] == 'cpu':
        return f'{m["flops_per_cpu_second"] / 1e9:.0f} GFLOP/s a core in {m["dtype"]} products'
    return f'{m["flops_per_second"] / 1e12:.0f} TFLOP/s in {m["dtype"]} products'


def _program(name, found):
    share = lambda value: '' if value is None else f'{value:.0%}'
    used, planned = found['peak_bytes'], found.get('planned_bytes')
    cells = [
        name,
        f'{found["seconds"]["median"] * 1e3:.3g}',
        f'{found["useful_flops"] / 1e12:.3g}',
        share(found['mfu']),
        share(found['of_limit']),
        '' if used is None else f'{used / GIB:.2f}',
        '' if planned is None else f'{planned / GIB:.2f}',
        '' if used is None or planned is None else f'{used / planned:.3f}',
    ]
    return f'| {" | ".join(cells)} |'


def _kernels(name, found):
    kernels = ', '.join(f'`{kernel}` {part:.0%}' for kernel, part in found['kernels'].items())
    return f'- {name}: {kernels}'


def _row(case, program, result):
    taken, ratio = result['seconds'][program], result.get('ratios', {}).get(program)
    cells = [
        case,
        program,
        f'{taken["median"]:.3g}',
        f'{taken["cpu"]:.3g}' if 'cpu' in taken else '',
    ]
    if ratio is not None:
        spread = f'{ratio["median"]:.2f} ({ratio["low"]:.2f} to {ratio["high"]:.2f})'
        cells += [spread, f'{ratio["cpu"]:.2f}']
    elif program == result.get('limit_of'):
        cells += ['', f'{result["of_limit"]:.0%} of the limit of products']
    else:
        cells += ['', '']
    return f'| {" | ".join(cells)} |'


def _curve(name, curve):
    sizes = ', '.join(f'{size:,}' if size >= 10_000 else str(size) for size in curve['sizes'])
    cpu = ', '.join(f'{seconds:.3g}' for seconds in curve['cpu_seconds'])
    return f'| {name} | {sizes} | {cpu} | {curve["exponent"]:.2f} | {curve["reason"]} |'
