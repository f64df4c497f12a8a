"""Data sets: where their files come from, how they are checked, split, kept in memory and augmented."""
