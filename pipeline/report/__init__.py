"""Results to ledger records, tables and reports: every difference in them is computed here."""
