"""The rules of the data: columns, types, codes, card numbers, and how drift is told."""
