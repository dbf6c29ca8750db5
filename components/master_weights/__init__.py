"""Weights that are kept in float32 and multiplied in less (Micikevicius et al., 2018, 1710.03740).

Autocast does the same in more passes over the weights: it casts them in every forward, and rounds,
casts and adds their gradients for every part of an optimiser step.
"""
