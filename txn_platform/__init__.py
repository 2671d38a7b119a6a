"""Financial transactions, from an API to a lake on S3: complete, typed, private, exactly once."""
