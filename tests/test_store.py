"""A file an entry: the same bytes come back, and neither damage nor death goes unnoticed."""

import os
import random

import pytest

from kb_lens import files
from kb_lens.store import Store, entry_key

KEY = entry_key("an entry")
CONTENT = random.Random(1).randbytes(300)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", ".bin")


def test_a_key_depends_on_the_content_alone():
    key = entry_key({"model": "gpt2", "lam": 2.0, "items": ["a", "b"]})
    assert key == "5d76ebf07ff57f09609b65190de31e49"
    assert key == entry_key({"items": ("a", "b"), "lam": 2.0, "model": "gpt2"})
    assert key != entry_key({"model": "gpt2", "lam": 2.0, "items": ["b", "a"]})
    assert key != entry_key({"model": "gpt2", "lam": 2.5, "items": ["a", "b"]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        entry_key({"lam": float("nan")})


def test_an_entry_comes_back_as_it_was(store):
    assert store.read(KEY) is None
    assert KEY not in store
    path = store.write(KEY, CONTENT)
    assert KEY in store
    assert store.read(KEY) == path.read_bytes() == CONTENT
    assert store.write(KEY, CONTENT) == path  # the same content is the same file
    store.remove(KEY)
    assert KEY not in store
    store.remove(KEY)


def test_any_damage_is_noticed_and_moved_aside(store):
    path = store.write(KEY, CONTENT)
    draw = random.Random(0)
    damaged = [b"", CONTENT[:-1], CONTENT[1:], CONTENT[: len(CONTENT) // 2], CONTENT + b"\0"]
    for index in draw.sample(range(len(CONTENT)), 50):
        flipped = bytes([CONTENT[index] ^ 1 << draw.randrange(8)])
        damaged.append(CONTENT[:index] + flipped + CONTENT[index + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged"):
            assert store.read(KEY) is None
        assert not path.exists()
        assert path.with_name(f"{path.name}.damaged").read_bytes() == content
        assert KEY not in store  # and no second warning
    store.write(KEY, CONTENT)
    assert store.read(KEY) == CONTENT


def test_a_sound_file_beside_a_damaged_one_is_read(store):
    contents = {store.write(KEY, content): content for content in (b"1", b"2")}
    first, second = sorted(contents)
    first.write_bytes(b"")
    with pytest.warns(UserWarning, match=first.name):
        assert store.read(KEY) == contents[second]


def test_a_claim_is_of_one_at_a_time(store):
    with store.claimed(KEY) as free, store.claimed(KEY) as again, store.claimed("other") as other:
        assert (free, again, other) == (True, False, True)
    with store.claimed(KEY) as free:
        assert free


def test_a_claim_is_given_back_after_an_exception(store):
    with pytest.raises(KeyError), store.claimed(KEY):
        raise KeyError
    with store.claimed(KEY) as free:
        assert free


def test_what_dead_processes_left_half_written_is_deleted(store, dead):
    host = files._HOST
    unfinished = {
        (key, process): store.write(key, CONTENT).with_suffix(f".bin.{host}-{process}-1.part")
        for key in (KEY, entry_key("other"), entry_key("elsewhere"))
        for process in (dead, os.getpid())
    }
    for path in unfinished.values():
        path.write_bytes(b"half")
    # Of a process on another machine that shares the folder, the claim alone can be seen.
    with store._locked(entry_key("elsewhere")), store.claimed(KEY):
        left = {name for name, path in unfinished.items() if path.exists()}
    assert left == {name for name in unfinished if name[1] != dead} | {
        (entry_key("elsewhere"), dead)
    }
    with store.claimed(entry_key("anything")):
        assert not [
            path for (_, process), path in unfinished.items() if process == dead and path.exists()
        ]
    assert store.read(KEY) == CONTENT


def test_an_entry_is_obtained_once(store):
    works = []

    def work():
        works.append(1)
        return CONTENT

    assert store.obtain(KEY, work) == store.obtain(KEY, work) == CONTENT
    assert len(works) == 1


def test_the_pieces_of_an_entry_go_when_it_is_written(store):
    pieces = store.pieces(KEY)
    pieces.obtain("a", lambda: b"first")
    store.pieces("other").write("a", b"stays")
    assert store.read(KEY) is None
    assert pieces.read("a") == b"first"
    store.write(KEY, CONTENT)
    assert "a" not in pieces
    assert not pieces.folder.exists()
    assert store.pieces("other").read("a") == b"stays"


def test_pieces_that_a_killed_writer_left_go_when_the_entry_is_read(store):
    store.write(KEY, CONTENT)
    store.pieces(KEY).write("a", b"left")
    assert store.read(KEY) == CONTENT
    assert not store.pieces(KEY).folder.exists()
