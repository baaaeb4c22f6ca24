"""Shows an evaluation: as tables of text, and as a page with images."""
