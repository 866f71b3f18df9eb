"""Results become words, a page, JSON and LaTeX."""
