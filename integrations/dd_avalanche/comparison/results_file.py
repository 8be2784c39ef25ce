"""The JSON file of a comparison, for resuming it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.results import PolicyResult, StreamResult, stream_key
from dd_plugins.api import FileError, OptionError, what_differs, write_atomically

__all__ = ["ResultsFile"]

_FORMAT_VERSION = 2  # from 2 on a file has a hash over all that it holds

_LATER_OPTIONS = {"validation": False, "augmented_copies": 0}
"""The values of newer options in experiments of older files."""


class ResultsFile:
    """The JSON file, written after each stream, so a kill loses at most one.

    Several processes may write to it at once, for different policies: each write first
    reads, under a lock, the streams added by others. Making a ``ResultsFile`` writes
    nothing.

    Args:
        experiment: the common options of all streams of the file.
        path: the file; None to write none.
        anew: whether the first write drops the streams in the file.

    Attributes:
        streams: all streams of the file.

    Raises:
        FileError: the file is damaged, or from another command or version.
        OptionError: its streams are of another experiment.
    """

    def __init__(
        self, experiment: Experiment, path: Path | None, *, anew: bool = False
    ) -> None:
        self.experiment, self.path = asdict(experiment), path
        self._anew = anew
        # An unfit file is refused now, not after a stream.
        self.streams: list[StreamResult] = [] if path is None else self._read()[0]

    def add(self, stream: StreamResult) -> None:
        """Add a stream, and write the file."""
        self.streams.append(stream)
        self.write([])

    def write(self, rows: list[PolicyResult]) -> None:
        """Add streams and rows to those of the file."""
        if self.path is None:
            return
        self._read()  # an error raised here is reported in one line, as it is
        write_atomically(self.path, lambda file: file.write(self._merged(rows)))
        self._anew = False

    def _merged(self, rows: list[PolicyResult]) -> bytes:
        """Return the content of the file with the streams and rows of this process."""
        before, results = self._read()
        known = {stream_key(asdict(stream)): stream for stream in before}
        for stream in self.streams:
            known.setdefault(stream_key(asdict(stream)), stream)
        self.streams = list(known.values())
        found = {_row_key(row): row for row in map(PolicyResult.as_dict, rows)}
        for row in results:
            found.setdefault(_row_key(row), row)
        return self._content(list(found.values()), self.streams)

    def _content(
        self, results: list[dict[str, Any]], streams: list[StreamResult]
    ) -> bytes:
        """Return the content of a file of these results and streams, with its hash."""
        content = {
            "format_version": _FORMAT_VERSION,
            "experiment": self.experiment,
            "results": results,
            "streams": [asdict(stream) for stream in streams],
        }
        content["content_hash"] = _content_hash(content)
        return (json.dumps(content, indent=1) + "\n").encode()

    def _read(self) -> tuple[list[StreamResult], list[dict[str, Any]]]:
        """Return the streams and the results in the file; none if they are dropped.

        Raises:
            FileError: it is damaged, or from another command or version.
            OptionError: its streams are of another experiment.
        """
        assert self.path is not None
        if self._anew or not self.path.exists():
            return [], []
        try:
            content = json.loads(self.path.read_text())
            before = {**_LATER_OPTIONS, **content["experiment"]}
            saved, version = content.get("content_hash"), content["format_version"]
            streams = [StreamResult(**stream) for stream in content["streams"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(
                f"{self.path}: expected a file of dd-plugins continual, got one that "
                f"cannot be read as such: {error}"
            ) from error
        if saved is None or saved != _content_hash(content):
            what = "expected a file with a hash, got one of an older version"
            if saved is not None:
                what = "expected content with the hash that it names, got damaged data"
            raise FileError(f"{self.path}: {what}; begin it anew with --overwrite")
        if version != _FORMAT_VERSION:
            raise FileError(
                f"{self.path}: expected a file of version {_FORMAT_VERSION}, got "
                f"{version}; begin it anew with --overwrite"
            )
        differing = what_differs(before, self.experiment)
        if differing:
            raise OptionError(
                f"{self.path} must hold streams of the same experiment, got others: "
                f"{differing}"
            )
        return streams, content["results"]


def _row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a row among all results."""
    names = ("policy", "protocol", "context", "store", "equal_bytes", "memory_images")
    return tuple(row[name] for name in names)


def _content_hash(content: dict[str, Any]) -> str:
    """Return a SHA-256 over the content of a file without the hash itself."""
    held = {name: value for name, value in content.items() if name != "content_hash"}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
