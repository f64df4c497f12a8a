"""One loop for every phase of training; what a phase adds comes in through hooks."""
