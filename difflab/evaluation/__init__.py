"""Compare two image sets, diagnose generations, monitor a training, simulate collapse."""
