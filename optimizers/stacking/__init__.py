"""Many optimizers of one kind as one, over a stack of networks."""
