"""A diagnosis as one self-contained HTML page, and as HTML in a notebook. No torch."""
