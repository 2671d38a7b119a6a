"""All of Dagster: partitions, resources, the IO manager, assets, checks, automation."""
