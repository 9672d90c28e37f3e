"""`mmfeat runs`: every run and every encoder's linear probe on the val rows, best first."""

from mmfeat.inference.run_ranking import RankedRun, ranked_runs

__all__ = ["RankedRun", "ranked_runs"]
