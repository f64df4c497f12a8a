"""A network with fixed zeros as machine code: lowered to sparse convolutions, generated as C, compiled once."""
