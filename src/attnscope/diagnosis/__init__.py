"""Diagnosis: rules weigh readings into suspects, the ranking turns these into findings. No torch."""
