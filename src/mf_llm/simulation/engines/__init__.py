"""Who answers for the people and for the mean field: a model in this process, or a server."""
