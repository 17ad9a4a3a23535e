"""Not the same bits everywhere: what a layer loses with fewer bits, and how to share a budget."""
