"""The report of a comparison: one HTML page that needs nothing beside itself."""
