"""Parameters benchmark: estimates learned by each loss, beside the exact maximum likelihood."""
