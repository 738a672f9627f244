"""What every room builds on: the one error type, progress, atomic files, embedding space."""
