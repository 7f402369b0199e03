"""Tears the commit of infra/etl at each of its steps.

usage: torn_commit.py FOLDER
       torn_commit.py ENDPOINT BUCKET

A small lake is brought from one state to the next with a store that fails at its
n-th step, for every n. After the next start all must be old or all new, and nothing
staged may be left.
"""

import itertools
import sys

import aws
from layers_state import STAGING, State
from layers_store import LocalStore, S3Store

OLD = {"processed/a": b"old a", "processed/b": b"old b", "trusted/gone": b"old"}
NEW = {"processed/a": b"new a", "processed/b": b"new b", "trusted/c": b"new c"}
RAW = "data/timestamp_sent=2026-11-24 02/a.parquet"


class Torn(Exception):
    pass


class Tearing:
    """A store that fails at its n-th change."""

    left = None

    def step(self):
        self.left -= 1
        if self.left < 0:
            raise Torn

    def write(self, name, data):
        self.step()
        super().write(name, data)

    def move(self, name, to):
        self.step()
        super().move(name, to)

    def delete(self, name):
        self.step()
        super().delete(name)

    def delete_all(self, prefix):
        self.step()
        super().delete_all(prefix)


def tables(store):
    found = [*store.list("processed"), *store.list("trusted")]
    return {name: store.read(name) for name in found}


class TearingFolder(Tearing, LocalStore):
    pass


class TearingBucket(Tearing, S3Store):
    pass


def fill(store):
    for prefix in ["data", "processed", "trusted", "etl"]:
        store.delete_all(prefix)
    for name, data in [*OLD.items(), (RAW, b"raw")]:
        store.write(name, data)
    for name, data in NEW.items():
        store.write(f"{STAGING}/1/{name}", data)


def tear(store, tearing, step):
    """Whether the commit went through before that step; and its outcome is whole."""
    fill(store)
    tearing.left = step
    moves = [(f"{STAGING}/1/{name}", name) for name in sorted(NEW)]
    try:
        State(tearing).commit(store.list("data"), moves, ["trusted/gone"])
        torn = False
    except Torn:
        torn = True
    state = State(store)
    state.recover()
    found, seen = tables(store), not state.unseen()
    assert found == (NEW if seen else OLD), f"step {step}: {found}, seen: {seen}"
    assert not store.list(STAGING), f"step {step}: staged files are left"
    return torn, seen


def stores(place, bucket=None):
    if bucket is None:
        return LocalStore(place), TearingFolder(place)
    aws.make_bucket(place, bucket)
    client = aws.client("s3", place)
    return S3Store(client, bucket), TearingBucket(client, bucket)


store, tearing = stores(*sys.argv[1:])
outcomes = []
for step in itertools.count():
    torn, seen = tear(store, tearing, step)
    if not torn:
        break
    outcomes.append(seen)
assert outcomes[0] is False and outcomes[-1] is True, outcomes
print(f"whole after each of {len(outcomes)} steps")
