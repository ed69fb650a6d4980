"""Where the attention is in a model, and what every parameter is for, from one watched forward pass."""
