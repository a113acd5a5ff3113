"""Studies of many chains: sweeps, comparisons of runs, published claims, calibration and exact laws; and of many samplers."""
