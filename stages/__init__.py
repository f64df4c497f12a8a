"""Entry points of the pipeline: one thin module a stage."""
