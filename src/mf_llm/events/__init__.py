"""Events: what happened, to whom, in which order; reading, checking and splitting them."""
