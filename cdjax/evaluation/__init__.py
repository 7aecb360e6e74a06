"""What a circuit keeps of a model, what is lost without it, and what its classes know."""
