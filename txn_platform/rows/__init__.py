"""Pure transformations of rows: no Dagster, no input or output."""
