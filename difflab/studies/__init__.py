"""Many chains: sweeps, runs beside each other, published claims, calibration, exact laws."""
