"""The process of one device of `mmfeat extract --devices`: encodes its shard of the rows, and reports to the command.

It is started by :mod:`mmfeat.project.device_encoding`.
"""

from __future__ import annotations

import dataclasses

from mmfeat.common.machine import bind_to
from mmfeat.common.progress import counting_into
from mmfeat.common.workers import Reports


def main() -> None:
    """Encode what the request on stdin names."""
    reports = Reports()
    with reports.ending():
        request = reports.request
        bind_to(request["cores"])
        from mmfeat.project.encoding import ExtractionOptions, encode_missing
        from mmfeat.project.project import Project

        project = Project(request["root"], request["overrides"])
        options = ExtractionOptions(**{**request["options"], "shard": tuple(request["shard"])})
        with counting_into(reports):
            for name in request["names"]:
                result = encode_missing(project, project.identity(name), options=options)
                reports.send(extraction=dataclasses.asdict(result))


if __name__ == "__main__":
    main()
