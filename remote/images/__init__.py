"""How the same image reaches every host: found there, pulled from a registry, built, or sent layer by layer.

``choose`` decides per host before anything moves; ``bring`` does it; ``send`` is the way that needs no registry.
"""
