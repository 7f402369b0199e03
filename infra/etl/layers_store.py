"""Where a lake lies: a folder, or a bucket of S3.

Names are those of objects, as `data/timestamp_sent=2026-11-24 02/a.parquet`. Both
stores replace one object at once: whoever reads sees the old or the new one.
"""

import os
import pathlib
import shutil


class LocalStore:
    def __init__(self, root):
        self.root = pathlib.Path(root).absolute()

    def path(self, name):
        """As Spark opens it."""
        return str(self.root / name)

    def list(self, prefix):
        """Every object below the folder `prefix`, with a stamp that differs where
        the content does."""
        found = {}
        for path in sorted((self.root / prefix).rglob("*")):
            if path.is_file():
                found[path.relative_to(self.root).as_posix()] = stamp(path)
        return found

    def read(self, name):
        return (self.root / name).read_bytes()

    def write(self, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}")
        beside.write_bytes(data)
        sync(beside)
        os.replace(beside, path)
        sync(path.parent)

    def hold(self, names, folder):
        """Links of these objects of this moment below `folder`, and their stamps.

        The agent replaces its open file while it grows, and Spark opens a file
        more than once."""
        held = {}
        for name in names:
            link = self.root / folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.root / name, link)
            except FileNotFoundError:  # Deleted for the bound of the lake.
                continue
            except OSError:  # A file system without links.
                shutil.copy2(self.root / name, link)
            held[name] = (f"{folder}/{name}", stamp(link))
        return held

    def settle(self, names):
        """Makes what others wrote durable."""
        for name in names:
            sync(self.root / name)
        for folder in {(self.root / name).parent for name in names}:
            sync(folder)

    def move(self, name, to):
        """Puts it in the place of `to`; one that has gone there before is left."""
        (self.root / to).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(self.root / name, self.root / to)
        except FileNotFoundError:
            return
        sync((self.root / to).parent)

    def delete(self, name):
        (self.root / name).unlink(missing_ok=True)
        try:
            (self.root / name).parent.rmdir()
        except OSError:  # Others are in there.
            pass

    def delete_all(self, prefix):
        shutil.rmtree(self.root / prefix, ignore_errors=True)


def stamp(path):
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class S3Store:
    """`client` is botocore's or boto3's."""

    def __init__(self, client, bucket):
        self.client, self.bucket = client, bucket

    def path(self, name):
        return f"s3://{self.bucket}/{name}"

    def list(self, prefix):
        pages = self.client.get_paginator("list_objects_v2")
        found = {}
        for page in pages.paginate(Bucket=self.bucket, Prefix=f"{prefix.rstrip('/')}/"):
            for entry in page.get("Contents", []):
                etag = entry["ETag"].strip('"')
                found[entry["Key"]] = f"{entry['Size']}-{etag}"
        return found

    def read(self, name):
        return self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()

    def write(self, name, data):
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def hold(self, names, folder):
        """Firehose never writes an object twice."""
        found = self.list("data")
        return {name: (name, found[name]) for name in names if name in found}

    def settle(self, names):
        """What S3 has taken is durable."""

    def move(self, name, to):
        if name not in self.list(name.rpartition("/")[0]):
            return
        source = {"Bucket": self.bucket, "Key": name}
        self.client.copy_object(Bucket=self.bucket, Key=to, CopySource=source)
        self.delete(name)

    def delete(self, name):
        self.client.delete_object(Bucket=self.bucket, Key=name)

    def delete_all(self, prefix):
        for name in self.list(prefix):
            self.delete(name)
