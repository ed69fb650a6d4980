"""All that curvature says of one model at one moment, within a budget: what the command shows."""
