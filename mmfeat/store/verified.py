"""Which files of a store this machine has verified, by size, time and inode: a shortcut, never a part of a key."""

from __future__ import annotations

import json
from pathlib import Path

from mmfeat.files import digest_bytes, digest_file, write_json
from mmfeat.store.parts import Commit


class VerifiedFiles:
    """Checksums of committed files, each computed once for as long as the file stays as it is.

    Parameters
    ----------
    folder : Path
        The encoder's folder in the store.
    """

    def __init__(self, folder: Path) -> None:
        from platformdirs import user_cache_path

        self.folder = folder
        self.file = user_cache_path("mmfeat") / "verified" / f"{digest_bytes(str(folder.resolve()).encode())[:24]}.json"
        self.known = self._load()
        self.changed = False

    def check(self, commit: Commit) -> str | None:
        """None if a file is what its commit says, else what is wrong with it."""
        path = self.folder / commit.file
        try:
            stat = path.stat()
        except OSError:
            return "it is not there"
        if stat.st_size != commit.size:
            return f"it has {stat.st_size:,} bytes, its commit says {commit.size:,}"
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino, commit.sha256]
        if self.known.get(commit.file) == stamp:
            return None
        try:
            digest = digest_file(path)
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        if digest != commit.sha256:
            return "its checksum is not the one in its commit"
        self.known[commit.file] = stamp
        self.changed = True
        return None

    def save(self) -> None:
        """Remember what was checked; a folder that cannot be written only costs the time again."""
        if self.changed:
            try:
                write_json(self.file, self.known)
                self.changed = False
            except OSError:
                pass

    def _load(self) -> dict[str, list]:
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}
