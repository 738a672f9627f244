"""What a person annotated or confirmed, told from what a model predicted."""
