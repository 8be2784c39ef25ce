"""Functions of plain torch, whose source is copied into the scripts of exports.

Each says in few lines what another room computes; tests hold the two to each other.
"""
