"""Studies of many chains (sweeps, published claims, calibration, exact laws, ...) and of samplers."""
