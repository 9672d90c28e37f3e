"""Which files of a store this machine has verified, by size, time and inode: a shortcut, never a part of a key."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path

from mmfeat.files import digest_bytes, digest_file, read_memory, write_json
from mmfeat.store.commits import Commit
from mmfeat.store.mapped import Stamp, stamp_of


class VerifiedFiles:
    """Checksums of committed files, each computed once for as long as the file stays as it is.

    Parameters
    ----------
    folder : Path
        The encoder's folder in the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = digest_bytes(str(folder.resolve()).encode("utf-8", "surrogateescape"))[:24]
        self.file = user_cache_path("mmfeat") / "verified" / f"{name}.json"
        self.known = read_memory(self.file)
        self.changed = False

    def check(self, commit: Commit) -> Stamp:
        """Make sure that a file is what its commit says.

        Raises
        ------
        ValueError
            With what is wrong with it.
        """
        path = self.folder / commit.file
        try:
            stamp = stamp_of(path.stat())
            if stamp[0] != commit.size:
                raise ValueError(f"it has {stamp[0]:,} bytes, its commit says {commit.size:,}")
            if self.known.get(commit.file) == [*stamp, commit.sha256]:
                return stamp
            digest = digest_file(path)
        except FileNotFoundError:
            raise ValueError("it is not there") from None
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror or error}") from None
        if digest != commit.sha256:
            raise ValueError("its checksum is not the one in its commit")
        self.known[commit.file] = [*stamp, commit.sha256]
        self.changed = True
        return stamp

    def forget(self, commit: Commit) -> None:
        """Check this file anew, whatever is remembered of it."""
        if self.known.pop(commit.file, None) is not None:
            self.changed = True

    def save(self) -> None:
        """Remember what was checked; a folder that cannot be written only costs the time again."""
        if self.changed:
            try:
                write_json(self.file, self.known)
                self.changed = False
            except OSError:
                pass
