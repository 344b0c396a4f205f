"""SQL that a policy can be trusted with: one statement in, a verdict and the statement to run out."""
