"""What the job has seen, and how it puts a run's tables in their places.

A run writes all its files below `etl/staging/`. Then one object, the commit
`etl/state/commit-N.json.gz`, says which of them go where, which others go away, and
which raw objects are seen from then on. It is the only moment that counts: a crash
before it leaves staged files, which the next start deletes, and the raw objects as
unseen as they were; a crash after it leaves moves that the next start makes.
"""

import gzip
import json

COMMITS = "etl/state/commits"
STAGING = "etl/staging"


class State:
    def __init__(self, store):
        self.store = store
        self.commits = sorted(store.list(COMMITS))
        last = self._read(self.commits[-1]) if self.commits else {}
        self.objects = last.get("objects", {})
        self.number = last.get("number", 0)
        self._last = last

    def _read(self, name):
        return json.loads(gzip.decompress(self.store.read(name)))

    def recover(self):
        """Makes what the last commit says, as far as a crash has not, and deletes
        what was staged without one."""
        for name, to in self._last.get("moves", []):
            self.store.move(name, to)
        for name in self._last.get("deletes", []):
            self.store.delete(name)
        self.store.delete_all(STAGING)
        for name in self.commits[:-1]:
            self.store.delete(name)

    def unseen(self):
        """The raw objects that are new or differ from what was seen."""
        raw = {
            name: stamp
            for name, stamp in self.store.list("data").items()
            if name.endswith(".parquet") and not name.rpartition("/")[2].startswith((".", "_"))
        }
        self.objects = {name: seen for name, seen in self.objects.items() if name in raw}
        return [name for name in raw if raw[name] != self.objects.get(name)]

    def forget(self):
        """Everything is new."""
        self.objects = {}

    def commit(self, seen, moves, deletes):
        """`seen` are raw objects with their stamps."""
        self.store.settle([name for name, _ in moves])
        self.objects = {**self.objects, **seen}
        self.number += 1
        self._last = {
            "number": self.number,
            "moves": moves,
            "deletes": deletes,
            "objects": self.objects,
        }
        name = f"{COMMITS}/commit-{self.number:010d}.json.gz"
        text = json.dumps(self._last, sort_keys=True)
        self.store.write(name, gzip.compress(text.encode(), mtime=0))
        self.commits.append(name)
        self.recover()
