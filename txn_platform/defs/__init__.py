"""All that knows Dagster: partitions, resources, the IO manager, assets, checks, automation."""
