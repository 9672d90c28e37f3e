"""Detection of URLs in place of paths; mmfeat downloads no data, so they are refused."""

from __future__ import annotations

import re

from mmfeat.common.errors import DataError
from mmfeat.common.text import shown

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|(https?|ftps?|file|s3|gs|hdfs|az):/", re.IGNORECASE)
_DATA = re.compile(r"data:[\w.+\-]*(/[\w.+\-]+)?(;[\w.+\-]+(=[^;,]*)?)*,", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a text is a URL or a data URI; also if `Path` has removed one slash of `https://`."""
    return bool(_URL.match(text) or _DATA.match(text))


def refuse_url(*texts: object) -> None:
    """Refuse URLs where paths are expected.

    Raises
    ------
    DataError
        One of the texts is a URL or a data URI.
    """
    for text in map(str, texts):
        if is_url(text):
            if _DATA.match(text):
                raise DataError(f"{shown(text)}: is a data URI: save it as a file first, and give its path")
            raise DataError(f"{shown(text, 200)}: is a URL: download it first, and give the path of the file")
