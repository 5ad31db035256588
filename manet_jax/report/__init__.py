"""Reports of an evaluation: a page, figures, tables, the challenge's files."""
