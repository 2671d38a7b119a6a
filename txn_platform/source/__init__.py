"""The wire: requests, formats, and what a hostile answer may cost."""
