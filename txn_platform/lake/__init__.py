"""Objects that are whole or not there, in a directory or in a bucket; and the Delta table."""
