"""The block pool against a deliberately dumb one, and the prefix tree against a list of everything ever entered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llorch.batching.blocks import BLOCK_POSITIONS, BlockPool
from llorch.batching.prefix import NODE_LABELS_MAX, Branch, PrefixTree
from llorch.batching.sequence import common_length

IDS = st.lists(st.integers(0, 2), max_size=8).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(["take", "share", "release"]), st.integers(0, 9)), max_size=60))
def test_the_lowest_free_block_comes_first(moves: list[tuple[str, int]]) -> None:
    """Always the lowest number that nobody holds, whatever was released in whatever order."""
    pool, held = BlockPool(6), [0] * 6
    for move, pick in moves:
        taken = [block for block, count in enumerate(held) if count]
        if move == "take" and pool.free:
            block = pool.take()
            assert block == held.index(0)
            held[block] = 1
        elif move == "share" and taken:
            pool.share(taken[pick % len(taken)])
            held[taken[pick % len(taken)]] += 1
        elif move == "release" and taken:
            pool.release(taken[pick % len(taken)])
            held[taken[pick % len(taken)]] -= 1
        assert pool.free == held.count(0)
        assert [pool.holders(block) for block in range(6)] == held


@given(st.lists(IDS, min_size=1, max_size=8), IDS)
def test_nearest_is_the_longest_common_beginning(entered: list[tuple[int, ...]], wanted: tuple[int, ...]) -> None:
    """As looking through all children would find it."""
    pool = BlockPool(64)
    tree = PrefixTree(pool, 64)
    root = tree.root(stretch=False)
    for ids in filter(None, entered):
        tree.enter(root, ids, pool.take())
    _, length = root.nearest(wanted)
    assert length == max((common_length(ids, wanted) for ids in entered), default=0)


def whole(first: int) -> tuple[int, ...]:
    """A block's worth of ids."""
    return (first, *range(1, BLOCK_POSITIONS))


def test_entered_twice_is_kept_once() -> None:
    """The second block is given back, and so is a partial one whose ids a longer one begins with."""
    pool = BlockPool(8)
    tree = PrefixTree(pool, 8)
    root = tree.root(stretch=False)
    first = tree.enter(root, whole(5), pool.take())
    assert tree.enter(root, whole(5), pool.take()) is first
    assert tree.enter(root, (5, 1, 2), pool.take()) is first
    assert pool.free == 7 and pool.holders(first.block) == 4
    short = tree.enter(first, (1, 2), pool.take())
    tree.release(short)
    assert tree.idle == 1
    long = tree.enter(first, (1, 2, 3), pool.take())
    assert list(first.children) == [long] and tree.idle == 0 and pool.free == 6


def test_leaves_go_first_and_the_oldest_of_them() -> None:
    """A node is evicted after what is below it; among those that nobody needs, the one let go of first."""
    pool = BlockPool(8)
    tree = PrefixTree(pool, 8)
    paths = []
    for last in (7, 8):
        branch: Branch = tree.root(stretch=False)
        path = []
        for ids in (whole(1), whole(2), (last,)):
            node = tree.enter(branch, ids, pool.take())
            path.append(node)
            branch = node
        paths.append(path)
    assert pool.free == 4
    for path in (paths[1], paths[0]):
        for node in reversed(path):
            tree.release(node)
    order = []
    while tree.idle:
        before = {node.token_ids for node in tree.nodes()}
        tree.evict()
        order += before - {node.token_ids for node in tree.nodes()}
    assert order == [(8,), (7,), whole(2), whole(1)] and tree.evicted == 4 and pool.free == 8


def test_labels_of_a_node_are_bounded() -> None:
    """Of many labels on one node the latest stay."""
    pool = BlockPool(2)
    tree = PrefixTree(pool, 2)
    node = tree.enter(tree.root(stretch=False), (1,), pool.take())
    tree.label(node, map(str, range(20)))
    tree.label(node, ["15"])
    labels = tree.labels(99)
    assert labels == ("15", "19", "18", "17", "16", "14", "13", "12") and len(labels) == NODE_LABELS_MAX
