"""Engines, which run the jobs of a study: on this machine (`local`), or on a cluster (`slurm`)."""
