"""The process of one device of `mmfeat extract --devices`: encodes its shard of the rows, and reports to the command.

It is started by :mod:`mmfeat.project.device_encoding`.
"""

from __future__ import annotations

import dataclasses
import os

from mmfeat.common.progress import counting_into
from mmfeat.common.workers import Reports


def main() -> None:
    """Encode what the request on stdin names."""
    reports = Reports()
    with reports.ending():
        request = reports.request
        if request["cores"]:
            os.sched_setaffinity(0, request["cores"])  # before torch starts threads
        from mmfeat.project.encoding import ExtractionOptions, encode_missing
        from mmfeat.project.project import Project

        project = Project(request["root"], request["overrides"])
        options = ExtractionOptions(shard=tuple(request["shard"]), stop_on_error=request["stop_on_error"])
        with counting_into(reports):
            for name in request["names"]:
                result = encode_missing(project, project.identity(name), options=options)
                reports.send(extraction=dataclasses.asdict(result))


if __name__ == "__main__":
    main()
