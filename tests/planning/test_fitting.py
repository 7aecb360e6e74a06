"""The searches, against machines whose answer is known."""

import pytest

from cdjax.planning.fitting import MeshShape, candidate_meshes, largest_batch


@pytest.mark.parametrize('first', [16, 64, 4096])
@pytest.mark.parametrize('bend', [0.0, 1e-4])
def test_largest_batch_on_a_line_and_near_one(first, bend):
    calls = []

    def needed(rows):
        calls.append(rows)
        return 1000 + 3 * rows + bend * rows**2

    limit = 8000
    true = max(rows for rows in range(16, 4096, 16) if 1000 + 3 * rows + bend * rows**2 <= limit)
    found = largest_batch(needed, limit, first=first, multiple=16, most=10**6)
    assert found % 16 == 0
    assert found <= true, 'beyond what fits'
    assert found >= 0.95 * true
    assert len(calls) == len(set(calls)) <= 5


def test_largest_batch_where_nothing_or_everything_fits():
    assert largest_batch(lambda rows: 10**9, 8000, first=64, multiple=16, most=1024) == 0
    assert largest_batch(lambda rows: 1.0, 8000, first=64, multiple=16, most=1000) == 992


@pytest.mark.parametrize('limit', [10.0, 1400.0])
def test_no_batch_below_the_least_is_tried(limit):
    tried = []
    needed = lambda rows: tried.append(rows) or 1000.0 + 10 * rows
    found = largest_batch(needed, limit, first=80, multiple=16, most=1024, least=24)
    assert found == (32 if limit > 1000 else 0)
    assert min(tried) == 32


def test_candidate_meshes_are_the_divisors_in_the_order_of_their_time():
    meshes = candidate_meshes(16, lambda mesh: mesh.tensor, rows=64, kv_heads=8)
    assert meshes == [MeshShape(16, 1), MeshShape(8, 2), MeshShape(4, 4), MeshShape(2, 8)]
    # 8 rows do not divide over 16, and 12 devices have no tensor=5.
    assert MeshShape(16, 1) not in candidate_meshes(16, lambda mesh: 0.0, rows=8, kv_heads=8)
    shapes = candidate_meshes(12, lambda mesh: -mesh.tensor, rows=12, kv_heads=4)
    assert shapes == [MeshShape(3, 4), MeshShape(6, 2), MeshShape(12, 1)]
