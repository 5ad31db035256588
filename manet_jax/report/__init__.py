"""What an evaluation is turned into: a page, figures, tables, the challenge's files."""
