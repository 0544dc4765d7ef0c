"""Claims with their statistics, and the gradient study."""
